"""Tensors as both sides of the server hold them: name, datatype, shape, and little-endian bytes.

Takes flat or nested Python values as JSON gives them, hands on the raw form of the Open Inference Protocol and back.
Standard library only, so the front needs no numpy and the worker no front.

Rules, in order:
1. Shapes are multiplied as Python integers; a length that does not fit its shape is an error, never a guess.
2. A value must be of its datatype: no bool for a number, no fraction for an integer, nothing out of range.
3. null stands for NaN in FP tensors and for None in BYTES tensors (length 0xFFFFFFFF inside the server only, a
   length no client can send); in all others it is an error.
4. Infinities have no JSON form: they come in binary only, and leave as null in JSON.
"""

from __future__ import annotations

import array
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Union

from intermodal_server.contract import DATATYPES, FLOAT_DATATYPES, INTEGER_DATATYPES

Buffer = Union[bytes, bytearray, memoryview]

NULL_LENGTH = 0xFFFFFFFF
_CODES = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP32": "f", "FP64": "d",
}  # fmt: skip


_FLOAT_CODES = {"FP16": "e", "FP32": "f", "FP64": "d"}


class TensorError(ValueError):
    """The client's tensor contradicts itself; the message may be shown to the client."""


class Tensor(NamedTuple):
    """One named array in row-major order; `data` is as in the binary tensor extension."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


def elements(shape: Sequence[int]) -> int:
    """How many values a shape holds; Python integers, so it cannot overflow."""
    return math.prod(shape)


def flatten(values: Any, shape: Sequence[int], name: str) -> list[Any]:
    """The values of a flat or nested list in row-major order.

    Raises:
        TensorError: not a list, or its lengths are not those of `shape`.
    """
    if not isinstance(values, list):
        raise TensorError(f"data of {name!r} must be a list")
    count = elements(shape)
    if len(shape) > 1 and values and isinstance(values[0], list):
        level: list[Any] = values
        if len(level) != shape[0]:
            raise TensorError(f"data of {name!r} has {len(level)} rows, its shape says {shape[0]}")
        for axis, length in enumerate(shape[1:], 1):
            if set(map(type, level)) != {list} or set(map(len, level)) != {length}:
                raise TensorError(f"data of {name!r} is ragged at axis {axis}; its shape says {length} each")
            level = list(chain.from_iterable(level))
        values = level
    flat: list[Any] = values
    if len(flat) != count:
        raise TensorError(f"data of {name!r} holds {len(flat)} values, its shape says {count}")
    return flat


def nest(values: list[Any], shape: Sequence[int]) -> list[Any]:
    """Flat values as nested lists of `shape`."""
    if 0 in shape:
        return [nest([], shape[1:]) for _ in range(shape[0])] if len(shape) > 1 else []
    for length in reversed(shape[1:]):
        values = [values[i : i + length] for i in range(0, len(values), length)]
    return values


def _refuse(values: list[Any], allowed: tuple[type, ...], datatype: str, name: str) -> None:
    for place, value in enumerate(values):
        if type(value) not in allowed:
            kind = "null" if value is None else type(value).__name__
            raise TensorError(f"value {place} of {name!r} is a {kind}, not {datatype}")


def _encode_bytes(values: list[Any], name: str) -> bytes:
    parts: list[bytes] = []
    pack = struct.Struct("<I").pack
    for place, value in enumerate(values):
        if value is None:
            parts.append(pack(NULL_LENGTH))
            continue
        if isinstance(value, str):
            try:
                value = value.encode()
            except UnicodeEncodeError:
                raise TensorError(f"value {place} of {name!r} is not Unicode text") from None
        elif not isinstance(value, bytes):
            raise TensorError(f"value {place} of {name!r} is a {type(value).__name__}, not a string")
        parts.append(pack(len(value)))
        parts.append(value)
    return b"".join(parts)


def _encode_floats(values: list[Any], datatype: str, name: str) -> bytes:
    kinds = set(map(type, values))
    if not kinds <= {float, int}:
        _refuse(values, (float, int, type(None)), datatype, name)
        values = [float("nan") if value is None else value for value in values]
    return encode_floats(values, datatype, name)


def encode_floats(values: list[float], datatype: str, name: str) -> bytes:
    """Flat numbers, nothing else, as raw little-endian bytes of a floating-point datatype.

    `struct` takes half the time of `array`, and refuses what rounds to infinity in the narrower types.

    Raises:
        TensorError: a value is too large for the datatype.
    """
    try:
        return struct.pack(f"<{len(values)}{_FLOAT_CODES[datatype]}", *values)
    except (OverflowError, struct.error):  # the latter for integers beyond every float
        raise TensorError(f"{name!r} holds a number too large for {datatype}") from None


def _little(values: array.array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def encode(values: list[Any], datatype: str, name: str) -> bytes:
    """Flat Python values as raw little-endian bytes.

    Raises:
        TensorError: a value is not of the datatype; the message names its place.
    """
    if datatype == "BYTES":
        return _encode_bytes(values, name)
    if datatype in FLOAT_DATATYPES:
        return _encode_floats(values, datatype, name)
    if datatype == "BOOL":
        if set(map(type, values)) - {bool}:
            _refuse(values, (bool,), datatype, name)
        return bytes(values)
    if datatype not in INTEGER_DATATYPES:
        raise TensorError(f"{name!r} has unknown datatype {datatype[:32]!r}")
    if set(map(type, values)) - {int}:
        _refuse(values, (int,), datatype, name)
    try:
        return _little(array.array(_CODES[datatype], values))
    except OverflowError:
        raise TensorError(f"{name!r} holds a number out of range for {datatype}") from None


def _decode_bytes(data: Buffer, name: str) -> list[Any]:
    values: list[Any] = []
    view = memoryview(data)
    position, end = 0, len(view)
    unpack = struct.Struct("<I").unpack_from
    while position < end:
        if end - position < 4:
            raise TensorError(f"binary data of {name!r} ends inside a length")
        (length,) = unpack(view, position)
        position += 4
        if length == NULL_LENGTH and end - position < NULL_LENGTH:
            values.append(None)
            continue
        if length > end - position:
            raise TensorError(f"binary data of {name!r} has an element longer than what is left")
        values.append(bytes(view[position : position + length]))
        position += length
    return values


def decode(data: Buffer, datatype: str, name: str) -> list[Any]:
    """Raw bytes as flat Python values: int, float, bool, or bytes and None for BYTES.

    Raises:
        TensorError: the bytes do not divide into elements of the datatype.
    """
    if datatype == "BYTES":
        return _decode_bytes(data, name)
    if len(data) % DATATYPES[datatype]:
        raise TensorError(f"binary data of {name!r} is not a whole number of {datatype} elements")
    if datatype == "BOOL":
        return list(map(bool, data))
    if datatype == "FP16":
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    if sys.byteorder == "little":
        numbers: list[Any] = memoryview(data).cast(_CODES[datatype]).tolist()  # type: ignore[call-overload]
        return numbers
    values = array.array(_CODES[datatype])
    values.frombytes(data)
    values.byteswap()
    return values.tolist()


def check_binary(tensor: Tensor) -> None:
    """Refuse binary data of a client that does not hold exactly the values its shape says.

    Raises:
        TensorError: another size, a BOOL that is neither 0 nor 1, BYTES whose lengths do not add up.
    """
    count = elements(tensor.shape)
    if tensor.datatype == "BYTES":
        values = _decode_bytes(tensor.data, tensor.name)
        if None in values:
            raise TensorError(f"binary data of {tensor.name!r} has an element longer than what is left")
        if len(values) != count:
            raise TensorError(f"binary data of {tensor.name!r} holds {len(values)} values, its shape says {count}")
        return
    expected = count * DATATYPES[tensor.datatype]
    if len(tensor.data) != expected:
        raise TensorError(f"binary data of {tensor.name!r} is {len(tensor.data)} bytes, its shape says {expected}")
    if tensor.datatype == "BOOL" and bytes(tensor.data).translate(None, b"\x00\x01"):
        raise TensorError(f"binary data of {tensor.name!r} holds a BOOL that is neither 0 nor 1")


def json_values(tensor: Tensor) -> list[Any]:
    """The values as JSON may hold them, flat; NaN stays NaN, BYTES become text.

    Raises:
        TensorError: BYTES that are not UTF-8, which JSON cannot hold.
    """
    name, datatype, _, data = tensor
    values = decode(data, datatype, name)
    if datatype != "BYTES":
        return values
    try:
        return [None if value is None else value.decode() for value in values]
    except UnicodeDecodeError:
        raise TensorError(f"{name!r} is not text; ask for it with binary_data") from None


def without_nulls(tensor: Tensor) -> Buffer:
    """`data` as a client may read it: None in BYTES becomes an empty element."""
    if tensor.datatype != "BYTES":
        return tensor.data
    values = _decode_bytes(tensor.data, tensor.name)
    if None not in values:
        return tensor.data
    return _encode_bytes([b"" if value is None else value for value in values], tensor.name)


def from_document(document: Mapping[str, Any]) -> Tensor:
    """A tensor of a V2 JSON body.

    Raises:
        TensorError: a field is missing or of the wrong kind, or the values do not fit datatype and shape.
    """
    try:
        name, datatype, shape, data = (document[key] for key in ("name", "datatype", "shape", "data"))
    except (KeyError, TypeError):
        raise TensorError("a tensor needs name, datatype, shape and data") from None
    if not isinstance(name, str) or datatype not in DATATYPES or not isinstance(shape, (list, tuple)):
        raise TensorError("a tensor needs a name, a known datatype and a shape")
    if any(type(length) is not int or length < 0 for length in shape):
        raise TensorError(f"shape of {name!r} must hold lengths of 0 or more")
    return Tensor(name, datatype, tuple(shape), encode(flatten(data, shape, name), datatype, name))


def to_document(tensor: Tensor) -> dict[str, Any]:
    """The tensor as a V2 JSON body holds it; NaN and infinities become null."""
    values = json_values(tensor)
    if tensor.datatype in FLOAT_DATATYPES:
        values = [value if value - value == 0 else None for value in values]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": values}
