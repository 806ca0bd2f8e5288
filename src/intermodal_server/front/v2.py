"""Open Inference Protocol V2 over HTTP: bodies in, bodies out, JSON and binary tensors mixed freely.

Takes a body and the value of `Inference-Header-Content-Length`, hands on `InferRequest`; takes outputs, hands on
headers and body.

Rules, in order:
1. That header alone decides whether the body has a binary part; Content-Type says nothing reliable.
2. Binary parts follow in the order of the inputs and must fill the body exactly.
3. Inputs and outputs are encoded independently; an output's `binary_data` wins over the request's
   `binary_data_output`.
4. JSON whose inputs are all flat lists of floating-point numbers, the common case, is read in one pass; what does not
   fit that is read again with everything allowed, so that there is one place that says what is wrong.
5. `id` is echoed only when given. Of a repeated JSON key the last counts, as everywhere in JSON; repeated input names
   are refused.

Spec: Open Inference Protocol, "Inference Request JSON Object"; Triton, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

import msgspec
import orjson

from intermodal_server.contract import DATATYPES, FLOAT_DATATYPES, ModelSettings
from intermodal_server.front.classify import classes
from intermodal_server.front.limits import MAX_ID_CHARS, MAX_OUTPUTS, MAX_RANK, Body, Refusal
from intermodal_server.tensors import (
    Tensor,
    TensorError,
    check_binary,
    elements,
    encode,
    encode_floats,
    flatten,
    json_values,
    without_nulls,
)

MAX_ELEMENTS = 1 << 33
NO_CLASSES: Mapping[str, int] = {}

Headers = list[tuple[bytes, bytes]]


# msgspec evaluates these annotations when the module is imported: Python 3.9 knows no "X | None" then
class InputDocument(msgspec.Struct):
    """One input as JSON has it."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: Optional[dict[str, Any]] = None


class FloatInputDocument(msgspec.Struct):
    """One input of a flat list of numbers."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]
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


class InferRequest(NamedTuple):
    """A request whose tensors hold what they claim; not yet compared with the model's signature."""

    id: str | None
    inputs: list[Tensor]
    outputs: Mapping[str, bool] | None  # requested names -> binary; None: all
    binary: bool  # for outputs that say nothing
    classes: Mapping[str, int]  # of outputs asked for as classes: how many


class FloatRequestDocument(msgspec.Struct):
    """A request of such inputs alone."""

    inputs: list[FloatInputDocument]
    id: Optional[str] = None
    outputs: Optional[list[OutputDocument]] = None
    parameters: Optional[dict[str, Any]] = None


Document = Union[RequestDocument, FloatRequestDocument]

_REQUEST = msgspec.json.Decoder(RequestDocument)
_FLOAT_REQUEST = msgspec.json.Decoder(FloatRequestDocument)


def decode_json(body: Body | memoryview, decoder: Any = None) -> Any:
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


def json_length(text: str | None, body: Body) -> int:
    """How much of `body` is JSON: all of it without the header, else as much as the header says.

    Raises:
        Refusal: 400.
    """
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


def _check_shape(document: InputDocument | FloatInputDocument) -> None:
    if document.datatype not in DATATYPES:
        raise Refusal(400, f"input {document.name[:64]!r} has unknown datatype {document.datatype[:32]!r}")
    if len(document.shape) > MAX_RANK:
        raise Refusal(400, f"input {document.name[:64]!r} has more than {MAX_RANK} axes")
    if min(document.shape, default=0) < 0 or elements(document.shape) > MAX_ELEMENTS:
        raise Refusal(400, f"input {document.name[:64]!r} has a shape that no request can fill")


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
    shape, data = tuple(document.shape), document.data
    if "binary_data_size" in parameters:
        if data is not msgspec.UNSET:
            raise Refusal(400, f"input {document.name[:64]!r} has both data and binary_data_size")
        part = binary.take(parameters["binary_data_size"], document.name)
        tensor = Tensor(document.name, document.datatype, shape, part)
        check_binary(tensor)
        return tensor
    if data is msgspec.UNSET:
        raise Refusal(400, f"input {document.name[:64]!r} has no data")
    values = flatten(data, shape, document.name)
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


def parse_request(body: Body, header_length: str | None = None, *, floats: bool = True) -> InferRequest:
    """The request in `body`.

    Args:
        body: after any content encoding was undone.
        header_length: the value of `Inference-Header-Content-Length`, None when the header was not sent.
        floats: whether flat lists of floating-point numbers are likely; it changes the time, never the result.

    Raises:
        Refusal: 400, with what is wrong.
    """
    document: Document
    flat = _float_document(body) if floats and header_length is None else None
    try:
        if flat is not None:
            document, inputs = flat, [_float_tensor(item) for item in flat.inputs]
        else:
            document, inputs = _any_document(body, json_length(header_length, body))
    except TensorError as error:
        raise Refusal(400, str(error)[:300]) from None
    if document.id is not None and len(document.id) > MAX_ID_CHARS:
        raise Refusal(400, f"id is longer than {MAX_ID_CHARS} characters")
    if len(inputs) > 1:
        _check_names(inputs)
    default = document.parameters is not None and _flag(document.parameters, "binary_data_output", False)
    if document.outputs is None:
        return InferRequest(document.id, inputs, None, default, NO_CLASSES)
    wanted = _wanted(document.outputs, default)
    return InferRequest(document.id, inputs, wanted, default, _classes(document.outputs) if wanted else NO_CLASSES)


def _float_document(body: Body) -> FloatRequestDocument | None:
    """The document when it is of the common kind."""
    try:
        document = _FLOAT_REQUEST.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    for item in document.inputs:
        if item.datatype not in FLOAT_DATATYPES or item.parameters is not None:
            return None
    return document


def _any_document(body: Body, length: int) -> tuple[RequestDocument, list[Tensor]]:
    document: RequestDocument = decode_json(memoryview(body)[:length], _REQUEST)
    binary = _BinaryPart(memoryview(body)[length:])
    inputs = [_tensor(item, binary) for item in document.inputs]
    binary.finish()
    return document, inputs


def _float_tensor(document: FloatInputDocument) -> Tensor:
    shape, data, name = tuple(document.shape), document.data, document.name
    if len(data) != math.prod(shape) or len(shape) > MAX_RANK or (shape and min(shape) < 0):
        _check_shape(document)
        flatten(data, shape, name)  # one of the two says what is wrong
    return Tensor(name, document.datatype, shape, encode_floats(data, document.datatype, name))


def _check_names(inputs: Sequence[Tensor]) -> None:
    seen: set[str] = set()
    for tensor in inputs:
        if tensor.name in seen:
            raise Refusal(400, f"input {tensor.name[:64]!r} is given twice")
        seen.add(tensor.name)


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
        name, datatype, shape, _ = tensor
        document: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
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
