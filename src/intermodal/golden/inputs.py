"""Input files for `record`: what a person has at hand, as V2 requests.

Takes a `.npy`, `.npz`, `.csv` or JSON file and the model's signature, hands on named request bodies.

Rules, in order:
1. A table (rows of one or several inputs) becomes one case a row, up to 16, and one with all rows, up to 1024.
2. Requests that are whole already (a list of V2 bodies, or a file of golden cases) stay as they are.
3. The signature's datatypes win over the file's, but for those it only assumes: there the file knows better.
4. Nothing is dropped or filled in: a missing or an extra input is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from pathlib import Path
from typing import Any

from msgspec import Struct

from intermodal.errors import InputError
from intermodal.golden.npy import MAX_BYTES, Values, finite, read_npy, read_npz
from intermodal_server.contract import FLOAT_DATATYPES, INTEGER_DATATYPES, Signature, TensorSpec

ROW_CASES = 16
ALL_ROWS = 1024
Request = dict[str, Any]


class NamedRequest(Struct, frozen=True):
    """A case to be: its name, its V2 body, and tolerances when it had some."""

    name: str
    request: Request
    rtol: float | None = None
    atol: float | None = None


_KINDS = "take .npy, .npz, .csv, a V2 request as JSON, or a file of golden cases"


def read_requests(path: Path, signature: Signature, call: str) -> list[NamedRequest]:
    """Named requests from `path`; `call` is the model card's ("array", "columns" or "named").

    Raises:
        InputError: missing, unreadable, or not what the model takes; `.next` says what it takes.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path.name} is too large", found=f"more than {MAX_BYTES >> 20} MiB", next="take fewer rows"
            )
        suffix = path.suffix.lower()
        if suffix == ".npy":
            return requests_of(
                _as_named(read_npy(path.read_bytes(), path.name), signature, path.name), signature, path.name
            )
        if suffix == ".npz":
            return requests_of(read_npz(path, path.name), signature, path.name)
        if suffix == ".csv":
            return requests_of(_from_csv(path, signature, call), signature, path.name)
        if suffix == ".json":
            return _from_json(path, signature)
    except OSError as error:
        raise InputError(f"cannot read inputs {path.name}", found=error.strerror or str(error), next=_KINDS) from error
    raise InputError(f"inputs of an unknown kind: {path.name}", found=f"suffix {path.suffix!r}", next=_KINDS)


def expected(signature: Signature) -> str:
    """What the model takes, in words."""
    return "the model takes " + ", ".join(f"{t.name} ({t.datatype} {list(t.shape)})" for t in signature.inputs)


def _as_named(values: Values, signature: Signature, name: str) -> dict[str, Values]:
    if len(signature.inputs) == 1:
        return {signature.inputs[0].name: values}
    columns = len(signature.inputs)
    if not columns:
        raise InputError(
            f"{name} is one array, and this model does not say what its inputs are called",
            next="name them: numpy.savez(FILE, x=X), or a V2 request as JSON",
        )
    if len(values.shape) == 2 and values.shape[1] == columns and values.datatype != "BYTES":
        return {
            spec.name: Values(values.datatype, (values.shape[0],), values.data[number::columns])
            for number, spec in enumerate(signature.inputs)
        }
    raise InputError(
        f"{name} is one array of shape {list(values.shape)}, the model has {columns} inputs",
        found=expected(signature),
        next="write a .csv with these columns, or numpy.savez with these names",
    )


def _from_csv(path: Path, signature: Signature, call: str) -> dict[str, Values]:
    import csv

    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream, strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path.name} is not a CSV file", found=str(error), next="save it as UTF-8 with commas"
        ) from error
    if not rows:
        raise InputError(f"{path.name} is empty", next="one header line, then one line a row")
    if call == "array" and len(signature.inputs) == 1:
        body = rows if _all_numbers(rows[0]) else rows[1:]
        _same_length(body, len(rows[0]), path.name)
        flat = [_number(cell, path.name) for row in body for cell in row]
        return {signature.inputs[0].name: Values("FP64", (len(body), len(rows[0])), flat)}
    head, body = rows[0], rows[1:]
    _same_length(body, len(head), path.name)
    if len(set(head)) != len(head):
        raise InputError(f"{path.name} names a column twice", found=", ".join(head)[:200], next="rename one")
    wanted = {spec.name: spec for spec in signature.inputs}
    columns = {}
    for number, name in enumerate(head):
        cells = [row[number] for row in body]
        columns[name] = _column(cells, wanted.get(name), f"column {name} of {path.name}")
    if head and head[0] in ("", "Unnamed: 0") and head[0] not in wanted:
        del columns[head[0]]  # the index that DataFrame.to_csv writes unless told not to
    return columns


def _same_length(rows: Sequence[Sequence[str]], length: int, name: str) -> None:
    for number, row in enumerate(rows, 2):
        if len(row) != length:
            raise InputError(
                f"{name} has rows of different lengths", found=f"row {number}: {len(row)} values, not {length}",
                next="quote values that hold commas",
            )  # fmt: skip


def _all_numbers(cells: Sequence[str]) -> bool:
    try:
        return all(float(cell) is not None for cell in cells)
    except ValueError:
        return False


def _number(cell: str, name: str) -> float | None:
    if not cell.strip():
        return None
    try:
        value: float | None = finite([float(cell)], name)[0]
    except ValueError:
        raise InputError(f"{name} holds text where the model takes numbers", found=repr(cell[:60])) from None
    return value


def _column(cells: list[str], spec: TensorSpec | None, name: str) -> Values:
    """One column, typed as the signature says, else as `pandas.read_csv` would."""
    shape = (len(cells),)
    if spec is not None and not spec.assumed and spec.datatype == "BYTES":
        return Values("BYTES", shape, [cell if cell else None for cell in cells])
    filled = [cell for cell in cells if cell.strip()]
    if filled and all(cell in ("True", "False", "true", "false") for cell in cells):
        return Values("BOOL", shape, [cell in ("True", "true") for cell in cells])
    try:
        if len(filled) == len(cells):
            return Values("INT64", shape, [int(cell) for cell in cells])
    except ValueError:
        pass
    try:
        return Values("FP64", shape, finite([float(cell) if cell.strip() else float("nan") for cell in cells], name))
    except ValueError:
        return Values("BYTES", shape, [cell if cell else None for cell in cells])


def _from_json(path: Path, signature: Signature) -> list[NamedRequest]:
    try:
        document = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        if isinstance(document, dict) and "cases" in document:
            return [
                NamedRequest(str(case["name"]), dict(case["request"]), case.get("rtol"), case.get("atol"))
                for case in document["cases"]
            ]
        if isinstance(document, list):
            return [NamedRequest(f"request {number}", dict(body)) for number, body in enumerate(document, 1)]
        tensors = {
            t["name"]: Values(str(t["datatype"]), tuple(t["shape"]), _flat(t["data"])) for t in document["inputs"]
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path.name} is not a V2 request",
            found=f"{type(error).__name__}: {error}",
            next='{"inputs": [{"name": …, "datatype": …, "shape": […], "data": […]}]}',
        ) from error
    return requests_of(tensors, signature, path.name)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON; write null for NaN")


def _flat(data: Any) -> list[Any]:
    while data and isinstance(data[0], list):
        data = [item for row in data for item in row]
    return list(data)


def requests_of(tensors: Mapping[str, Values], signature: Signature, name: str) -> list[NamedRequest]:
    """Named requests from tensors whose first axis are rows; `name` is the file's, for messages.

    Raises:
        InputError: missing or unknown inputs, no common rows, or another shape or type than the signature's.
    """
    ready = {}
    if set(tensors) != {spec.name for spec in signature.inputs} and signature.inputs:
        missing = [spec.name for spec in signature.inputs if spec.name not in tensors]
        extra = [key for key in tensors if key not in {spec.name for spec in signature.inputs}]
        raise InputError(
            f"{name} does not hold the inputs of the model",
            found=[f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(extra)}"] * bool(extra),
            next=expected(signature),
        )
    specs = {spec.name: spec for spec in signature.inputs}
    for key in specs or tensors:
        ready[key] = _fit(tensors[key], specs.get(key), f"{key} in {name}")
    counts = {values.shape[0] if values.shape else 0 for values in ready.values()}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"the inputs in {name} have no common rows",
            found=[f"{key}: shape {list(values.shape)}" for key, values in ready.items()],
            next="the first axis of every input is the batch, one row or more",
        )
    count = counts.pop()
    cases = [NamedRequest(f"row {n + 1}", _body(ready, n, n + 1)) for n in range(min(count, ROW_CASES))]
    if count > 1:
        name = "all rows" if count <= ALL_ROWS else f"first {ALL_ROWS} of {count} rows"
        cases.append(NamedRequest(name, _body(ready, 0, min(count, ALL_ROWS))))
    return cases


def _fit(values: Values, spec: TensorSpec | None, name: str) -> Values:
    """The values in the datatype and rank that the signature says.

    Raises:
        InputError: another shape, or values that the datatype cannot hold.
    """
    if len(values.data) != prod(values.shape):
        raise InputError(
            f"{name} holds {len(values.data)} values", found=f"its shape {list(values.shape)} needs others"
        )
    if spec is None:
        return values
    shape = values.shape
    if len(shape) == len(spec.shape) - 1 and _shape_fits((1, *shape), spec.shape):
        shape = (1, *shape)  # a single row
    elif len(shape) == len(spec.shape) + 1 and shape[-1] == 1:
        shape = shape[:-1]  # a column given as (n, 1)
    if not _shape_fits(shape, spec.shape):
        raise InputError(
            f"{name} has another shape than the model takes",
            found=f"shape {list(values.shape)}",
            next=f"{spec.name} is {spec.datatype} {list(spec.shape)}",
        )
    if spec.assumed or values.datatype == spec.datatype:
        return Values(values.datatype, shape, values.data)
    return Values(spec.datatype, shape, _cast(values, spec.datatype, name))


def _shape_fits(shape: Sequence[int], spec: Sequence[int]) -> bool:
    return len(shape) == len(spec) and all(want in (-1, have) for have, want in zip(shape, spec, strict=True))


def _cast(values: Values, datatype: str, name: str) -> list[Any]:
    def refuse(value: object) -> InputError:
        return InputError(
            f"{name} holds a value that is no {datatype}",
            found=f"{str(value)[:60]!r} of datatype {values.datatype}",
            next=f"write it as {datatype}",
        )

    out: list[Any] = []
    for value in values.data:
        if value is None:
            if datatype not in FLOAT_DATATYPES and datatype != "BYTES":
                raise refuse(value)
            out.append(None)
        elif datatype == "BYTES":
            if not isinstance(value, str):
                raise refuse(value)
            out.append(value)
        elif isinstance(value, str):
            raise refuse(value)
        elif datatype in FLOAT_DATATYPES:
            out.append(float(value))
        elif datatype in INTEGER_DATATYPES and isfinite(value) and float(value).is_integer():
            out.append(int(value))
        elif datatype == "BOOL" and value in (0, 1):
            out.append(bool(value))
        else:
            raise refuse(value)
    return out


def _body(tensors: Mapping[str, Values], start: int, stop: int) -> Request:
    """The V2 body of some rows; values flat and row-major."""
    inputs = []
    for name, values in tensors.items():
        width = prod(values.shape[1:])
        inputs.append(
            {
                "name": name,
                "datatype": values.datatype,
                "shape": [stop - start, *values.shape[1:]],
                "data": values.data[start * width : stop * width],
            }
        )
    return {"inputs": inputs}
