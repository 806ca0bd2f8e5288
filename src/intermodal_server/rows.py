"""Several requests as one, and its answer taken apart again: raw bytes only, so the front needs no numpy.

Takes the inputs of requests whose shapes are equal beyond the first axis, hands on inputs of one request; takes its
outputs, hands on the rows of each caller. Row-major data of equal rows can be put one behind the other, BYTES too.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from typing import Optional

from intermodal_server.contract import DATATYPES
from intermodal_server.tensors import NULL_LENGTH, Tensor, elements

_LENGTH = struct.Struct("<I").unpack_from


class RowCountError(ValueError):
    """The model's outputs do not have one row for each row it was given."""


def row_count(inputs: Sequence[Tensor]) -> Optional[int]:
    """How many rows a request holds; None when its inputs do not agree on that."""
    rows: Optional[int] = None
    for tensor in inputs:
        shape = tensor.shape
        if not shape or (rows is not None and shape[0] != rows):
            return None
        rows = shape[0]
    return rows


def merge_key(inputs: Sequence[Tensor]) -> Hashable:
    """Requests with equal keys, and a `row_count` each, may go together."""
    if len(inputs) == 1:
        name, datatype, shape, _ = inputs[0]
        return name, datatype, shape[1:]
    return tuple([(tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in inputs])


def merge(requests: Sequence[Sequence[Tensor]], rows: int) -> list[Tensor]:
    """The inputs of all requests as those of one; `rows` is the sum of theirs. The data may be written to."""
    merged = []
    for parts in zip(*requests):
        first = parts[0]
        data = bytearray().join([part.data for part in parts])
        merged.append(Tensor(first.name, first.datatype, (rows, *first.shape[1:]), data))
    return merged


def check_rows(outputs: Sequence[Tensor], rows: int) -> None:
    """Refuse outputs whose first axis is not `rows`.

    Raises:
        RowCountError: names the output; for the log.
    """
    for output in outputs:
        if not output.shape or output.shape[0] != rows:
            raise RowCountError(f"output {output.name!r} has shape {list(output.shape)} for {rows} rows")


def split(outputs: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    """The outputs of a merged request as those of its parts.

    Args:
        outputs: as `check_rows` lets them through.
        counts: rows of each part, in order.

    Raises:
        RowCountError: BYTES whose elements do not add up.
    """
    answers: list[list[Tensor]] = [[] for _ in counts]
    for output in outputs:
        name, datatype, rest = output.name, output.datatype, output.shape[1:]
        begin = 0
        if datatype == "BYTES":
            ends = _bytes_ends(output, counts)
        else:
            row_bytes = elements(rest) * DATATYPES[datatype]
            ends, end = [], 0
            for count in counts:
                end += count * row_bytes
                ends.append(end)
        data = memoryview(output.data)
        if ends and ends[-1] != len(data):
            raise RowCountError(f"output {name!r} holds {len(data)} bytes, its shape says {ends[-1]}")
        for answer, count, end in zip(answers, counts, ends):
            answer.append(Tensor(name, datatype, (count, *rest), bytes(data[begin:end])))
            begin = end
    return answers


def _bytes_ends(output: Tensor, counts: Sequence[int]) -> list[int]:
    """Where the elements of each part end in the data of a BYTES output."""
    per_row = elements(output.shape[1:])
    data, size = output.data, len(output.data)
    ends, position = [], 0
    for count in counts:
        for _ in range(count * per_row):
            if position + 4 > size:
                raise RowCountError(f"output {output.name!r} ends before its last element")
            (length,) = _LENGTH(data, position)
            position += 4 if length == NULL_LENGTH else 4 + length
        ends.append(position)
    return ends


def own(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The same outputs with data that nobody else can change."""
    return [
        output if type(output.data) is bytes else Tensor(output.name, output.datatype, output.shape, bytes(output.data))
        for output in outputs
    ]
