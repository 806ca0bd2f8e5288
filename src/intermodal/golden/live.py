"""Inputs as they lie in a notebook, as V2 requests: arrays, DataFrames, lists of texts, dictionaries of arrays.

Takes the live model and its inputs, hands on `LiveInputs` in the same form that `inspect` will find in the saved file.
Imports no framework: numpy and pandas are used through the objects that were given.

Rules, in order:
1. A model that remembers column names takes one input per column; every other takes `X`, or `text` when it is given
   strings; ONNX takes the names of its graph.
2. Floating-point columns stay floating point, integers stay integers; an array `X` is FP64, or FP32 when given so.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from msgspec import Struct

from intermodal.errors import InputError
from intermodal.golden.cases import GoldenCase
from intermodal.golden.inputs import NamedRequest, requests_of
from intermodal.golden.npy import Values, finite
from intermodal_server.contract import Signature, TensorSpec

_DATATYPES = {
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_NULLABLE = {"Float32": "FP32", "Float64": "FP64", "Int64": "INT64", "Int32": "INT32", "boolean": "BOOL"}


class LiveInputs(Struct, frozen=True):
    """Requests, the signature they have, and the inputs as the live model takes them."""

    requests: tuple[NamedRequest, ...]
    signature: Signature
    call: str
    native: Any


def live_inputs(model: Any, inputs: Any) -> LiveInputs:
    """`inputs` for the live `model`.

    Raises:
        InputError: no rows, or values that no datatype stands for.
    """
    columns = [str(name) for name in getattr(model, "feature_names_in_", ())]
    if isinstance(inputs, Mapping) and not hasattr(inputs, "iloc"):
        tensors = {str(name): _values(array, str(name)) for name, array in inputs.items()}
        return _made(tensors, "named", inputs)
    if columns:
        table = inputs if hasattr(inputs, "iloc") else _framed(inputs, columns)
        missing = [name for name in columns if name not in list(table.columns)]
        if missing:
            raise InputError("the inputs lack columns the model was trained on", found=", ".join(missing))
        tensors = {name: _values(table[name], f"column {name}") for name in columns}
        return _made(tensors, "columns", table[columns])
    if hasattr(inputs, "iloc"):
        inputs = inputs.to_numpy()
    values = _values(inputs, "inputs")
    name = "text" if values.datatype == "BYTES" and len(values.shape) == 1 else "X"
    if name == "X" and values.datatype not in ("FP32", "BYTES"):
        values = Values("FP64", values.shape, [None if v is None else float(v) for v in values.data])
    return _made({name: values}, "array", inputs)


def _framed(inputs: Any, columns: list[str]) -> Any:
    import pandas

    return pandas.DataFrame(inputs, columns=columns)


def _made(tensors: dict[str, Values], call: str, native: Any) -> LiveInputs:
    specs = tuple(TensorSpec(n, v.datatype, (-1, *v.shape[1:])) for n, v in tensors.items())
    signature = Signature(specs, ())
    return LiveInputs(tuple(requests_of(tensors, signature, "inputs")), signature, call, native)


def _values(array: Any, name: str) -> Values:
    if isinstance(array, list | tuple):
        data = list(array)
        if data and all(isinstance(item, str) for item in data):
            return Values("BYTES", (len(data),), data)
        import numpy

        array = numpy.asarray(array)
    kind = str(array.dtype)
    shape = tuple(int(n) for n in array.shape)
    data = array.tolist()
    for _ in shape[1:]:
        data = [item for row in data for item in row]
    if kind in _NULLABLE:
        data = [None if item != item or str(item) == "<NA>" else item for item in data]
        kind = {"FP32": "float32", "FP64": "float64", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}[
            _NULLABLE[kind]
        ]
    if kind in _DATATYPES:
        datatype = _DATATYPES[kind]
        if datatype.startswith("FP"):
            data = finite([float("nan") if v is None else v for v in data], name)
        elif None in data:
            raise InputError(f"{name} is of {kind} and holds missing values", next="make it floating point")
        return Values(datatype, shape, data)
    texts = [None if item is None or item != item else item for item in data]
    if all(item is None or isinstance(item, str) for item in texts) and prod(shape) == len(texts):
        return Values("BYTES", shape, texts)
    raise InputError(
        f"{name} holds values that no datatype stands for",
        found=f"dtype {kind}",
        next="give numbers, bool or strings; dates as strings",
    )


def differences(model: Any, live: LiveInputs, case: GoldenCase) -> list[str]:
    """Where the recorded answer is not what the live model answers to the same rows; [] when it is.

    Args:
        model: the live object.
        live: its inputs.
        case: the case with all rows.
    """
    count = case.request["inputs"][0]["shape"][0]
    answer = model.predict(live.native[:count])
    expected = answer.tolist() if hasattr(answer, "tolist") else list(answer)
    recorded = next(o for o in case.response["outputs"] if o["name"] in ("label", "prediction"))["data"]
    flat = [item for row in expected for item in row] if expected and isinstance(expected[0], list) else expected
    found = []
    for place, (mine, theirs) in enumerate(zip(recorded, flat, strict=False)):
        if isinstance(theirs, float):
            same = mine is None or abs(mine - theirs) <= 1e-9 + 1e-6 * abs(theirs)
        else:
            same = mine == theirs
        if not same:
            found.append(f"row {place + 1}: the file answers {mine!r}, the live model {theirs!r}")
    if len(recorded) != len(flat):
        found.append(f"the file answers {len(recorded)} values, the live model {len(flat)}")
    return found[:5]
