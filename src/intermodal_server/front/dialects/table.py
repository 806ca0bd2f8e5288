"""CSV as tables of the model's inputs and back; what `/invocations` takes and gives beside JSON.

Takes text and the signature, hands on column names (None: the order of the signature) and rows of JSON-like values;
takes outputs, hands on text.

Rules, in order:
1. `header=present` or `header=absent` in the content type decides whether the first line names the columns.
2. Otherwise it does when it holds the names of all inputs, or a cell that its column's datatype cannot hold, as the
   names that pandas writes do and numbers, which SageMaker sends without names, do not.
3. An empty cell is null: NaN in FP columns, no text in BYTES columns, an error in all others.
4. A line answers a row: its outputs side by side, without a header.

Spec: RFC 4180, "Definition of the CSV Format".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from intermodal_server.contract import FLOAT_DATATYPES, INTEGER_DATATYPES, ModelSettings, TensorSpec
from intermodal_server.front.dialects.values import to_column
from intermodal_server.front.limits import Refusal
from intermodal_server.tensors import Tensor

Row = list[Any]
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _number(cell: str) -> Any:
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def _integer(cell: str) -> Any:
    if "_" in cell:
        raise ValueError(cell)
    return int(cell)


def _truth(cell: str) -> Any:
    try:
        return TRUTH[cell.strip().lower()]
    except KeyError:
        raise ValueError(cell) from None


def _guess(cell: str) -> Any:
    try:
        return _number(cell)
    except ValueError:
        return cell


def _reader(spec: TensorSpec) -> Callable[[str], Any]:
    if spec.assumed:
        return _guess
    if spec.datatype in FLOAT_DATATYPES:
        return _number
    if spec.datatype in INTEGER_DATATYPES:
        return _integer
    return _truth if spec.datatype == "BOOL" else str


def _lines(text: str) -> list[list[str]]:
    try:
        return [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise Refusal(400, f"the body is not CSV: {error}"[:200]) from None


def _readers(width: int, names: Sequence[str] | None, specs: Sequence[TensorSpec]) -> list[Callable[[str], Any]]:
    """How to read each cell of a line."""
    if len(specs) == 1:
        return [_reader(specs[0])] * width
    by_name = {spec.name: _reader(spec) for spec in specs}
    if names is None:
        names = [spec.name for spec in specs]
    return [by_name.get(name, str) for name in names]


def _fits(line: Sequence[str], readers: Sequence[Callable[[str], Any]]) -> bool:
    for cell, read in zip(line, readers):
        try:
            if cell:
                read(cell)
        except ValueError:
            return False
    return True


def _has_header(line: Sequence[str], specs: Sequence[TensorSpec], said: str) -> bool:
    if said in ("present", "absent"):
        return said == "present"
    if sorted(line) == sorted(spec.name for spec in specs):
        return True
    return not _fits(line, _readers(len(line), None, specs))


def read_table(body: bytes, settings: ModelSettings, header: str = "") -> tuple[list[str] | None, list[Row]]:
    """Column names and rows of a CSV body; no names when the first line is a row.

    Args:
        body: UTF-8.
        settings: of the model; the datatypes decide how cells are read.
        header: `present`, `absent`, or "" when the client did not say.

    Raises:
        Refusal: 400, with the line that cannot be read.
    """
    try:
        lines = _lines(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Refusal(400, "the CSV is not UTF-8") from None
    specs = settings.signature.inputs
    names: list[str] | None = None
    if lines and _has_header(lines[0], specs, header):
        names = lines.pop(0)
    if not lines:
        raise Refusal(400, "the request holds no rows")
    readers = _readers(len(lines[0]), names, specs)
    return names, [_row(line, readers, number) for number, line in enumerate(lines, 1)]


def _row(line: Sequence[str], readers: Sequence[Callable[[str], Any]], number: int) -> Row:
    if len(line) != len(readers):
        raise Refusal(400, f"row {number} of the CSV has {len(line)} cells, {len(readers)} are expected")
    try:
        return [read(cell) if cell else None for cell, read in zip(line, readers)]
    except ValueError:
        place = next(i for i, (cell, read) in enumerate(zip(line, readers)) if not _fits([cell], [read]))
        raise Refusal(400, f"row {number} of the CSV: cell {place + 1} is not of its column's datatype") from None


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield value["b64"]
    else:
        yield "" if value is None or value != value else value


def write_table(outputs: Sequence[Tensor]) -> bytes:
    """One line a row.

    Raises:
        Refusal: 400, outputs without a common first axis have no rows.
    """
    if any(not output.shape or output.shape[0] != outputs[0].shape[0] for output in outputs):
        raise Refusal(400, "the outputs have no common first axis; ask for JSON")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in zip(*(to_column(output) for output in outputs)):
        writer.writerow(list(_flat(list(row))))
    return out.getvalue().encode()
