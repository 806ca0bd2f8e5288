"""`/predict`: the plain form, for people with curl.

Takes `{"inputs": {name: values}}` or `{"instances": [row, …]}`, hands on tensors of the model's own types; answers
`{"outputs": {name: values}}`, nested as their shapes say. Shapes are read off the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from intermodal_server.contract import ModelSettings, TensorSpec
from intermodal_server.front.limits import Body, Refusal
from intermodal_server.front.v2 import decode_json
from intermodal_server.tensors import Tensor, TensorError, encode, flatten, json_values, nest


def _shape(values: Any) -> list[int]:
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    return shape


def tensor_of(spec: TensorSpec, values: Any) -> Tensor:
    """An input from nested values; its shape is read off them.

    Raises:
        TensorError: the values are not rectangular, or not of the input's datatype.
    """
    if not isinstance(values, list):
        values = [values]
    shape = _shape(values)
    if not values and spec.shape:  # no rows at all
        shape = [0, *[max(length, 0) for length in spec.shape[1:]]]
    elif len(spec.shape) == len(shape) + 1:  # one row without the list around it
        values, shape = [values], [1, *shape]
    datatype = spec.datatype
    if spec.assumed:
        datatype = _guess(flatten(values, shape, spec.name), datatype)
    return Tensor(spec.name, datatype, tuple(shape), encode(flatten(values, shape, spec.name), datatype, spec.name))


def _guess(values: Sequence[Any], datatype: str) -> str:
    """The datatype of an input whose type nobody knows for certain: what the values are."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {str}:
        return "BYTES"
    if kinds == {bool}:
        return "BOOL"
    if kinds and kinds <= {int, float} and datatype in ("BYTES", "BOOL"):
        return "FP64"
    return datatype


def columns_of(instances: Any, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Rows as one column an input.

    Raises:
        Refusal: 400, the rows do not all hold every input.
    """
    if not isinstance(instances, list) or not instances:
        raise Refusal(400, "instances must be a list of rows")
    names = [spec.name for spec in specs]
    if all(isinstance(row, dict) for row in instances):
        for row in instances:
            if set(row) != set(names):
                raise Refusal(400, f"every instance must have exactly these fields: {', '.join(names)}"[:300])
        return {name: [row[name] for row in instances] for name in names}
    if len(names) == 1:
        return {names[0]: instances}
    if not all(isinstance(row, list) and len(row) == len(names) for row in instances):
        raise Refusal(400, f"every instance must be an object, or a list of {len(names)} values")
    return {name: [row[column] for row in instances] for column, name in enumerate(names)}


def parse_predict(body: Body, settings: ModelSettings) -> list[Tensor]:
    """The tensors of a `/predict` body.

    Raises:
        Refusal: 400, with what is wrong.
    """
    document = decode_json(body)
    specs = settings.signature.inputs
    if not isinstance(document, dict) or ("inputs" in document) == ("instances" in document):
        raise Refusal(400, 'the body must be {"inputs": {name: values}} or {"instances": [row, …]}')
    values = document["inputs"] if "inputs" in document else columns_of(document["instances"], specs)
    if not isinstance(values, dict):
        raise Refusal(400, "inputs must be an object of name and values")
    known = {spec.name for spec in specs}
    for name in values:
        if name not in known:
            raise Refusal(400, f"the model has no input {name[:64]!r}")
    try:
        return [tensor_of(spec, values[spec.name]) for spec in specs if spec.name in values]
    except TensorError as error:
        raise Refusal(400, str(error)[:300]) from None


def format_predict(outputs: Sequence[Tensor]) -> bytes:
    """The body of an answer.

    Raises:
        Refusal: 400, an output that JSON cannot hold.
    """
    try:
        return orjson.dumps({"outputs": {t.name: nest(json_values(t), t.shape) for t in outputs}})
    except TensorError as error:
        raise Refusal(400, str(error)) from None
