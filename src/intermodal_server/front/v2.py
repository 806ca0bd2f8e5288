"""Open Inference Protocol V2 over HTTP: bodies in, bodies out, JSON and binary tensors mixed freely.

Takes a body and the value of `Inference-Header-Content-Length`, hands on `InferRequest`; takes outputs, hands on
headers and body.

Rules, in order:
1. That header alone decides whether the body has a binary part; Content-Type says nothing reliable.
2. Binary parts follow in the order of the inputs and must fill the body exactly.
3. Inputs and outputs are encoded independently; an output's `binary_data` wins over the request's
   `binary_data_output`.
4. `id` is echoed only when given. Of a repeated JSON key the last counts, as everywhere in JSON; repeated input names
   are refused.

Spec: Open Inference Protocol, "Inference Request JSON Object"; Triton, "Binary Tensor Data Extension".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import msgspec
import orjson

from intermodal_server.contract import DATATYPES, ModelSettings
from intermodal_server.front.classify import classes
from intermodal_server.front.limits import MAX_ID_CHARS, MAX_OUTPUTS, MAX_RANK, Body, Refusal
from intermodal_server.tensors import (
    Tensor,
    TensorError,
    check_binary,
    elements,
    encode,
    flatten,
    json_values,
    without_nulls,
)

MAX_ELEMENTS = 1 << 33

Headers = list[tuple[bytes, bytes]]


# msgspec evaluates these annotations when the module is imported: Python 3.9 knows no "X | None" then
class InputDocument(msgspec.Struct):
    """One input as JSON has it."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: Optional[dict[str, Any]] = None


class OutputDocument(msgspec.Struct):
    """One requested output as JSON has it."""

    name: str
    parameters: Optional[dict[str, Any]] = None


class RequestDocument(msgspec.Struct):
    """A whole request as JSON has it."""

    inputs: list[InputDocument]
    id: Optional[str] = None
    outputs: Optional[list[OutputDocument]] = None
    parameters: Optional[dict[str, Any]] = None


@dataclass(frozen=True)
class InferRequest:
    """A request whose tensors hold what they claim; not yet compared with the model's signature."""

    id: str | None
    inputs: list[Tensor]
    outputs: Mapping[str, bool] | None  # requested names -> binary; None: all
    binary: bool  # for outputs that say nothing
    classes: Mapping[str, int] = field(default_factory=dict)  # of outputs asked for as classes: how many


_REQUEST = msgspec.json.Decoder(RequestDocument)


def decode_json(body: Body | memoryview | msgspec.Raw, decoder: Any = None) -> Any:
    """`body` as JSON, by `decoder` when it must have a certain form.

    Raises:
        Refusal: 400, with what is wrong where.
    """
    try:
        return decoder.decode(body) if decoder is not None else msgspec.json.decode(body)
    except RecursionError:
        raise Refusal(400, "the JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise Refusal(400, "the JSON is not UTF-8") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise Refusal(400, f"the request is not valid: {error}"[:300]) from None


def _header_length(text: str | None, body: Body) -> int:
    if text is None:
        return len(body)
    if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) > len(body):
        raise Refusal(400, "Inference-Header-Content-Length is not a length within the body")
    return int(text)


def _flag(parameters: Mapping[str, Any] | None, name: str, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"parameter {name} must be true or false")
    return value


def _check_shape(document: InputDocument) -> None:
    shown = document.name[:64]
    if document.datatype not in DATATYPES:
        raise Refusal(400, f"input {shown!r} has unknown datatype {document.datatype[:32]!r}")
    if len(document.shape) > MAX_RANK:
        raise Refusal(400, f"input {shown!r} has more than {MAX_RANK} axes")
    if any(length < 0 for length in document.shape) or elements(document.shape) > MAX_ELEMENTS:
        raise Refusal(400, f"input {shown!r} has a shape that no request can fill")


class _BinaryPart:
    """What follows the JSON, taken piece by piece."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, size: Any, name: str) -> memoryview:
        if type(size) is not int or size < 0 or size > len(self._data) - self._position:
            raise Refusal(400, f"binary_data_size of input {name[:64]!r} does not fit the body")
        start, self._position = self._position, self._position + size
        return self._data[start : self._position]

    def finish(self) -> None:
        left = len(self._data) - self._position
        if left:
            raise Refusal(400, f"{left} bytes follow the last binary input")


def _tensor(document: InputDocument, binary: _BinaryPart) -> Tensor:
    _check_shape(document)
    parameters = document.parameters or {}
    shape, raw = tuple(document.shape), bytes(document.data)
    if "binary_data_size" in parameters:
        if raw:
            raise Refusal(400, f"input {document.name[:64]!r} has both data and binary_data_size")
        part = binary.take(parameters["binary_data_size"], document.name)
        tensor = Tensor(document.name, document.datatype, shape, part)
        check_binary(tensor)
        return tensor
    if not raw:
        raise Refusal(400, f"input {document.name[:64]!r} has no data")
    values = flatten(decode_json(raw), shape, document.name)
    return Tensor(document.name, document.datatype, shape, encode(values, document.datatype, document.name))


def _wanted(documents: list[OutputDocument] | None, default: bool) -> dict[str, bool] | None:
    if not documents:
        return None
    if len(documents) > MAX_OUTPUTS:
        raise Refusal(400, f"more than {MAX_OUTPUTS} outputs are requested")
    wanted: dict[str, bool] = {}
    for document in documents:
        if document.name in wanted:
            raise Refusal(400, f"output {document.name[:64]!r} is requested twice")
        wanted[document.name] = _flag(document.parameters, "binary_data", default)
    return wanted


def _classes(documents: list[OutputDocument] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for document in documents or ():
        count = (document.parameters or {}).get("classification", 0)
        if type(count) is not int or count < 0:
            raise Refusal(400, "parameter classification must be a number of classes")
        if count:
            found[document.name] = count
    return found


def parse_request(body: Body, header_length: str | None = None) -> InferRequest:
    """The request in `body`.

    Args:
        body: after any content encoding was undone.
        header_length: the value of `Inference-Header-Content-Length`, None when the header was not sent.

    Raises:
        Refusal: 400, with what is wrong.
    """
    length = _header_length(header_length, body)
    document: RequestDocument = decode_json(memoryview(body)[:length], _REQUEST)
    if document.id is not None and len(document.id) > MAX_ID_CHARS:
        raise Refusal(400, f"id is longer than {MAX_ID_CHARS} characters")
    binary = _BinaryPart(memoryview(body)[length:])
    inputs: list[Tensor] = []
    seen = set()
    try:
        for item in document.inputs:
            if item.name in seen:
                raise Refusal(400, f"input {item.name[:64]!r} is given twice")
            seen.add(item.name)
            inputs.append(_tensor(item, binary))
    except TensorError as error:
        raise Refusal(400, str(error)[:300]) from None
    binary.finish()
    default = _flag(document.parameters, "binary_data_output", False)
    wanted = _wanted(document.outputs, default)
    return InferRequest(document.id, inputs, wanted, default, _classes(document.outputs) if wanted else {})


def select_outputs(request: InferRequest, outputs: Sequence[Tensor]) -> list[tuple[Tensor, bool]]:
    """The requested outputs in the order of the request, each with whether it goes out as binary.

    Raises:
        Refusal: 400, an output is requested that the model does not have, or classes of one that has no numbers.
    """
    if request.outputs is None:
        return [(output, request.binary) for output in outputs]
    by_name = {output.name: output for output in outputs}
    for name in request.outputs:
        if name not in by_name:
            raise Refusal(400, f"the model has no output {name[:64]!r}")
    for name, count in request.classes.items():
        try:
            by_name[name] = classes(by_name[name], count)
        except TensorError as error:
            raise Refusal(400, str(error)) from None
    return [(by_name[name], binary) for name, binary in request.outputs.items()]


def format_response(
    settings: ModelSettings, request_id: str | None, selected: Sequence[tuple[Tensor, bool]]
) -> tuple[Headers, bytes]:
    """Headers and body of an answer.

    Raises:
        Refusal: 400, an output that JSON cannot hold was not asked for as binary.
    """
    documents: list[dict[str, Any]] = []
    parts: list[Any] = []
    for tensor, binary in selected:
        document: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary:
            part = without_nulls(tensor)
            parts.append(part)
            document["parameters"] = {"binary_data_size": len(part)}
        else:
            try:
                document["data"] = json_values(tensor)  # orjson writes NaN as null
            except TensorError as error:
                raise Refusal(400, str(error)) from None
        documents.append(document)
    answer: dict[str, Any] = {"model_name": settings.name, "model_version": settings.version, "outputs": documents}
    if request_id is not None:
        answer["id"] = request_id
    text = orjson.dumps(answer)
    if not parts:
        return [(b"content-type", b"application/json")], text
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", b"%d" % len(text)),
    ]
    return headers, b"".join([text, *parts])
