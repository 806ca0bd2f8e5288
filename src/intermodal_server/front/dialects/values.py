"""Rows and columns of plain JSON as tensors and back, as the dialects before V2 have them.

Takes decoded JSON and the signature, hands on tensors; takes outputs, hands on lists.

Rules, in order: rows are objects, lists, or the bare values of a model with one input; `{"b64": text}` stands for bytes
wherever a BYTES input has an element; a column of single values fits an input of shape `[-1, 1]`; bytes that are no
text leave as `{"b64": text}`; NaN and infinities leave as null.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from intermodal_server.contract import ModelSettings, TensorSpec
from intermodal_server.front.limits import Refusal
from intermodal_server.front.predict import columns_of, tensor_of
from intermodal_server.tensors import Tensor, TensorError, decode, nest


def _bytes_of(values: Any) -> Any:
    if isinstance(values, list):
        return [_bytes_of(value) for value in values]
    if isinstance(values, dict) and set(values) == {"b64"} and isinstance(values["b64"], str):
        try:
            return base64.b64decode(values["b64"], validate=True)
        except (ValueError, binascii.Error):
            raise TensorError("a b64 value is not base64") from None
    return values


def _column(spec: TensorSpec, values: Any) -> Any:
    if spec.datatype == "BYTES" or spec.assumed:
        values = _bytes_of(values)
    flat = isinstance(values, list) and not any(isinstance(value, list) for value in values)
    if flat and len(spec.shape) == 2 and spec.shape[0] == -1 and spec.shape[1] == 1:
        return [[value] for value in values]
    return values


def from_columns(columns: Mapping[str, Any], settings: ModelSettings) -> list[Tensor]:
    """The tensors of named columns.

    Raises:
        Refusal: 400, an unknown name, or values that are not of the input's datatype or not rectangular.
    """
    specs = settings.signature.inputs
    known = {spec.name for spec in specs}
    for name in columns:
        if name not in known:
            raise Refusal(400, f"the model has no input {name[:64]!r}")
    try:
        return [tensor_of(spec, _column(spec, columns[spec.name])) for spec in specs if spec.name in columns]
    except TensorError as error:
        raise Refusal(400, str(error)[:300]) from None
    except RecursionError:
        raise Refusal(400, "the values are nested too deeply") from None


def from_rows(instances: Any, settings: ModelSettings) -> list[Tensor]:
    """The tensors of rows.

    Raises:
        Refusal: 400, as above.
    """
    specs = settings.signature.inputs
    if len(specs) == 1 and specs[0].datatype == "BYTES" and isinstance(instances, list):
        try:
            instances = _unnamed(instances, specs[0].name)
        except RecursionError:
            raise Refusal(400, "the values are nested too deeply") from None
        except TensorError as error:
            raise Refusal(400, str(error)) from None
    return from_columns(columns_of(instances, specs), settings)


def _unnamed(instances: list[Any], name: str) -> list[Any]:
    """Rows of a model with one BYTES input, where an object may be a value as well as a row."""
    return [
        row[name] if isinstance(row, dict) and set(row) == {name} and name != "b64" else _bytes_of(row)
        for row in instances
    ]


def from_inputs(inputs: Any, settings: ModelSettings) -> list[Tensor]:
    """The tensors of `inputs`: an object of columns, or the bare values of a model with one input.

    Raises:
        Refusal: 400, as above.
    """
    specs = settings.signature.inputs
    if isinstance(inputs, dict) and (len(specs) != 1 or set(inputs) != {"b64"}):
        return from_columns(inputs, settings)
    if len(specs) != 1:
        raise Refusal(400, f"inputs must be an object of these names: {', '.join(spec.name for spec in specs)}"[:300])
    return from_columns({specs[0].name: inputs}, settings)


def from_frame(columns: Sequence[str] | None, rows: Sequence[Sequence[Any]], settings: ModelSettings) -> list[Tensor]:
    """The tensors of a table.

    Args:
        columns: names; None when the table has the order of the signature.
        rows: equally long, at least one.
        settings: of the model; a model with one input of two axes takes the whole table as it stands.

    Raises:
        Refusal: 400, as above, or rows of different lengths.
    """
    specs = settings.signature.inputs
    width = len(rows[0]) if columns is None and rows else len(columns or ())
    if not rows:
        raise Refusal(400, "the request holds no rows")
    if any(len(row) != width for row in rows):
        raise Refusal(400, f"every row must have {width} values")
    if len(specs) == 1 and (len(specs[0].shape) == 2 or not specs[0].shape) and settings.call != "columns":
        return from_columns({specs[0].name: list(rows)}, settings)
    names = columns if columns is not None else [spec.name for spec in specs]
    if len(names) != width:
        raise Refusal(400, f"the rows have {width} values, the model takes {len(names)} columns")
    if len(set(names)) != len(names):
        raise Refusal(400, "a column is given twice")
    return from_columns({name: [row[place] for row in rows] for place, name in enumerate(names)}, settings)


def to_column(tensor: Tensor) -> list[Any]:
    """A tensor as nested lists of what JSON can hold."""
    values = decode(tensor.data, tensor.datatype, tensor.name)
    if tensor.datatype == "BYTES":
        values = [None if value is None else _text(value) for value in values]
    return nest(values, tensor.shape)


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode("ascii")}


def answered(outputs: Sequence[Tensor], settings: ModelSettings) -> Sequence[Tensor]:
    """The outputs that a row stands for: of scikit-learn what `predict` returns, of all others everything."""
    return outputs[:1] if settings.backend == "sklearn" else outputs


def to_rows(outputs: Sequence[Tensor]) -> list[Any]:
    """One value a row when there is one output, else one object a row.

    Raises:
        Refusal: 400, outputs without a common first axis have no rows.
    """
    if len(outputs) == 1 and outputs[0].shape:
        return to_column(outputs[0])
    if not outputs or any(not output.shape or output.shape[0] != outputs[0].shape[0] for output in outputs):
        raise Refusal(400, 'the outputs have no common first axis; ask with "inputs" for columns')
    columns = [to_column(output) for output in outputs]
    names = [output.name for output in outputs]
    return [dict(zip(names, row)) for row in zip(*columns)]


def to_columns(outputs: Sequence[Tensor]) -> Any:
    """The bare values of one output, else an object of columns."""
    if len(outputs) == 1:
        return to_column(outputs[0])
    return {output.name: to_column(output) for output in outputs}
