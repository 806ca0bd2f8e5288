"""`ModelInferRequest` to tensors, and tensors to `ModelInferResponse`.

Takes messages, hands on tensors that hold what they claim, or a `Refusal`.

Rules, in order:
1. Raw contents belong to all inputs, in their order, or to none; an input with both kinds is refused.
2. Typed contents are of the one field that the datatype has, and as many as the shape says; FP16 has no field.
3. Answers are always raw. `id` comes back as it was given.
4. Shared memory is not offered, so a parameter that names a region is refused rather than ignored.

Spec: Open Inference Protocol, "gRPC", "Tensor Data"; Triton, "Shared-Memory Extension" (refused).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from intermodal_server.contract import DATATYPES, ModelSettings
from intermodal_server.front.classify import classes
from intermodal_server.front.grpc.messages import message
from intermodal_server.front.limits import MAX_ID_CHARS, MAX_OUTPUTS, MAX_RANK, Refusal
from intermodal_server.front.v2 import MAX_ELEMENTS
from intermodal_server.tensors import Tensor, TensorError, check_binary, elements, encode, without_nulls

ModelInferResponse = message("inference.ModelInferResponse")

MAX_INPUTS = 4096  # of a model whose signature is not known
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_FLOATS = {"FP32": "f", "FP64": "d"}


def check_model(name: str, version: str, settings: ModelSettings) -> None:
    """Refuse a request for another model or version; no version means ours.

    Raises:
        Refusal: 404.
    """
    if name != settings.name:
        raise Refusal(404, "there is no model of this name")
    if version and version != settings.version:
        raise Refusal(404, "there is no such version of this model")


def parse_infer(request: Any, settings: ModelSettings) -> list[Tensor]:
    """The inputs of a `ModelInferRequest`.

    Raises:
        Refusal: 400 or 404, with what is wrong.
    """
    check_model(request.model_name, request.model_version, settings)
    inputs, raw = request.inputs, request.raw_input_contents
    if len(request.id) > MAX_ID_CHARS:
        raise Refusal(400, f"id is longer than {MAX_ID_CHARS} characters")
    if len(inputs) > (len(settings.signature.inputs) or MAX_INPUTS):
        raise Refusal(400, "the request has more inputs than the model")
    if len(request.outputs) > MAX_OUTPUTS:
        raise Refusal(400, f"more than {MAX_OUTPUTS} outputs are requested")
    if raw and len(raw) != len(inputs):
        raise Refusal(400, f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs")
    tensors: list[Tensor] = []
    seen = set()
    try:
        for place, document in enumerate(inputs):
            if document.name in seen:
                raise Refusal(400, f"input {document.name[:64]!r} is given twice")
            seen.add(document.name)
            tensors.append(_tensor(document, raw[place] if raw else None))
    except TensorError as error:
        raise Refusal(400, str(error)[:300]) from None
    return tensors


def _tensor(document: Any, raw: bytes | None) -> Tensor:
    name, datatype, shape = document.name, document.datatype, tuple(document.shape)
    shown = name[:64]
    if datatype not in DATATYPES:
        raise Refusal(400, f"input {shown!r} has unknown datatype {datatype[:32]!r}")
    if len(shape) > MAX_RANK:
        raise Refusal(400, f"input {shown!r} has more than {MAX_RANK} axes")
    if any(length < 0 for length in shape) or elements(shape) > MAX_ELEMENTS:
        raise Refusal(400, f"input {shown!r} has a shape that no request can fill")
    if document.parameters:
        _refuse_shared_memory(document.parameters)
    if raw is None:
        return Tensor(name, datatype, shape, _typed(document, datatype, elements(shape)))
    if document.HasField("contents"):
        raise Refusal(400, f"input {shown!r} has both contents and raw_input_contents")
    tensor = Tensor(name, datatype, shape, raw)
    check_binary(tensor)
    return tensor


def _refuse_shared_memory(parameters: Any) -> None:
    if any(name.startswith("shared_memory_") for name in parameters):
        raise Refusal(400, "shared memory is not offered; send the tensors themselves")


def _typed(document: Any, datatype: str, count: int) -> bytes:
    shown = document.name[:64]
    field = CONTENTS.get(datatype)
    if field is None:
        raise Refusal(400, f"input {shown!r} is {datatype}, which comes in raw_input_contents only")
    others = [found.name for found, _ in document.contents.ListFields() if found.name != field]
    if others:
        raise Refusal(400, f"input {shown!r} is {datatype} and has {others[0]}; {field} is expected")
    values = getattr(document.contents, field)
    if len(values) != count:
        raise Refusal(400, f"input {shown!r} has {len(values)} values in {field}, its shape says {count}")
    if datatype in _FLOATS:
        return struct.pack(f"<{count}{_FLOATS[datatype]}", *values)
    return encode(list(values), datatype, document.name)


def select(request: Any, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The requested outputs in the order of the request; all when none is named.

    Raises:
        Refusal: 400, an output is requested twice, or the model does not have it, or in a form that it cannot have.
    """
    if not request.outputs:
        return list(outputs)
    by_name = {output.name: output for output in outputs}
    chosen: dict[str, Tensor] = {}
    for document in request.outputs:
        name = document.name
        if name not in by_name:
            raise Refusal(400, f"the model has no output {name[:64]!r}")
        if name in chosen:
            raise Refusal(400, f"output {name[:64]!r} is requested twice")
        if document.parameters:
            _refuse_shared_memory(document.parameters)
        chosen[name] = _as_asked(by_name[name], document.parameters)
    return list(chosen.values())


def _as_asked(output: Tensor, parameters: Any) -> Tensor:
    if "classification" not in parameters:
        return output
    count = parameters["classification"].int64_param
    if count < 1:
        raise Refusal(400, "parameter classification must be a number of classes")
    try:
        return classes(output, count)
    except TensorError as error:
        raise Refusal(400, str(error)) from None


def format_infer(settings: ModelSettings, request_id: str, outputs: Sequence[Tensor]) -> bytes:
    """A serialized `ModelInferResponse`."""
    response = ModelInferResponse(model_name=settings.name, model_version=settings.version, id=request_id)
    for tensor in outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(bytes(without_nulls(tensor)))
    data: bytes = response.SerializeToString()
    return data
