"""Tensors as numpy arrays and back, for backends whose framework brings numpy; and whatever a model returns as tensors.

Takes any numpy of the model's environment, imported when first used. Without numpy, lists are read by `from_python`.
"""

from __future__ import annotations

from typing import Any

from intermodal_server.tensors import Tensor, decode, encode, nest

_DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1", "INT16": "i2",
    "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip
LARGE_BYTES = 32 << 10
_DATATYPES = {code: name for name, code in _DTYPES.items() if name != "BOOL"}


class OutputError(TypeError):
    """The model returned something that is no tensor; the log says what."""


def text_or_bytes(value: Any) -> Any:
    """A BYTES element as models expect it: text where it is UTF-8, else the bytes themselves; None stays."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def to_python(tensor: Tensor) -> list[Any]:
    """The tensor as nested lists, for a model without numpy."""
    values = decode(tensor.data, tensor.datatype, tensor.name)
    if tensor.datatype == "BYTES":
        values = [text_or_bytes(value) for value in values]
    return nest(values, tensor.shape)


def to_numpy(tensor: Tensor) -> Any:
    """The tensor as an array of the native type; BYTES become an object array of text."""
    import numpy

    if tensor.datatype == "BYTES":
        values = [text_or_bytes(value) for value in decode(tensor.data, "BYTES", tensor.name)]
        array = numpy.empty(len(values), dtype=object)
        array[:] = values
        return array.reshape(tensor.shape)
    dtype = numpy.dtype("<" + _DTYPES[tensor.datatype]).newbyteorder("<")
    array = numpy.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)
    return array if array.flags.writeable else array.copy()  # some compiled models refuse read-only memory


def _from_objects(name: str, values: list[Any], shape: tuple[int, ...]) -> Tensor:
    """Values of an object array or list, by the narrowest datatype that holds them all."""
    values = [value.item() if getattr(value, "shape", None) == () else value for value in values]
    kinds = {type(value) for value in values}
    texts = {kind for kind in kinds if issubclass(kind, (str, bytes))}
    rest = kinds - texts - {type(None)}
    if texts and not rest:
        plain = [value if isinstance(value, (bytes, type(None))) else str(value) for value in values]
        return Tensor(name, "BYTES", shape, encode(plain, "BYTES", name))
    if kinds == {bool}:
        return Tensor(name, "BOOL", shape, encode(values, "BOOL", name))
    if kinds == {int}:
        return Tensor(name, "INT64", shape, encode(values, "INT64", name))
    if not texts and rest <= {int, float}:
        return Tensor(name, "FP64", shape, encode(values, "FP64", name))
    raise OutputError(f"output {name!r} mixes {', '.join(sorted(kind.__name__ for kind in kinds))}")


def from_python(name: str, value: Any) -> Tensor:
    """A number, a string, or a (nested) list of them as a tensor.

    Raises:
        OutputError: ragged, or of mixed or unknown types.
    """
    if value is None:
        raise OutputError(f"output {name!r} is None")
    shape: list[int] = []
    level = list(value) if isinstance(value, (list, tuple)) else [value]
    shape.append(len(level))
    while level and isinstance(level[0], (list, tuple)):
        length = len(level[0])
        if any(not isinstance(item, (list, tuple)) or len(item) != length for item in level):
            raise OutputError(f"output {name!r} is ragged")
        shape.append(length)
        level = [item for row in level for item in row]
    return _from_objects(name, level, tuple(shape))


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(hasattr(item, "__array__") for item in value)


def from_numpy(name: str, value: Any) -> Tensor:
    """An array, or anything that numpy makes one of, as a tensor of its own type; a large one is a view of it.

    Raises:
        OutputError: a type that no datatype stands for.
    """
    import numpy

    if value is None:
        raise OutputError(f"output {name!r} is None")
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu().numpy()
    if hasattr(value, "toarray"):  # scipy sparse
        value = value.toarray()
    if not hasattr(value, "__array__") and not _holds_arrays(value):
        return from_python(name, value)
    array = numpy.asarray(value)
    if array.ndim == 0:
        array = array.reshape(1)
    shape = tuple(int(length) for length in array.shape)
    kind = array.dtype.kind
    if kind in "OUST":
        return _from_objects(name, array.ravel().tolist(), shape)
    if kind == "b":
        return Tensor(name, "BOOL", shape, numpy.ascontiguousarray(array).tobytes())
    code = f"{kind}{array.dtype.itemsize}"
    if kind == "f" and code not in _DATATYPES:  # long double
        array, code = array.astype("f8"), "f8"
    if code not in _DATATYPES:
        raise OutputError(f"output {name!r} has type {array.dtype}, which no datatype stands for")
    array = array.astype("<" + code, copy=False)
    if array.nbytes >= LARGE_BYTES:  # whoever hands it on copies it anyway
        return Tensor(name, _DATATYPES[code], shape, memoryview(numpy.ascontiguousarray(array)).cast("B"))
    return Tensor(name, _DATATYPES[code], shape, array.tobytes())
