"""NumPy arrays as pickles describe them: datatype and shape, and the raw bytes that joblib puts into the stream.

`as_array` reads the four ways an array is written (joblib wrapper, `_reconstruct` with state, `_frombuffer`,
`scalar`). `read_wrapped_array` moves a source past the raw bytes of a joblib wrapper, computing their length exactly as
joblib will; where a descriptor contradicts itself (a state that says "objects" for a type that says "numbers"), joblib
might read on elsewhere than we do, so that is hostile, not odd.
"""

from __future__ import annotations

import math
import re

from msgspec import Struct, field

from intermodal.rooms.inspect.pickles.source import Source
from intermodal.rooms.inspect.pickles.values import Dict, Global, Hostile, List, Obj, Value

_CODE = re.compile(r"[<>=|]?([biufcSUVOMm])([0-9]{1,9})\Z")
MAX_DEPTH = 16  # of datatypes inside datatypes
_OBJECT_FLAG = 1  # NPY_ITEM_REFCOUNT: what ndarray.dtype.hasobject tests
WRAPPER_KEYS = frozenset(("subclass", "shape", "order", "dtype", "allow_mmap"))


class Array(Struct, frozen=True):
    """An array that was described: NumPy kind letter, bytes per element, shape, and members where they are objects."""

    kind: str  # one of ? i u f c S U V O M m
    item_bytes: int
    shape: tuple[int, ...]
    objects: list[Value] = field(default_factory=list)

    @property
    def datatype(self) -> str:
        """The Open Inference Protocol datatype, "" when it has none."""
        if self.kind in "OSU":
            return "BYTES"
        if self.kind == "?":
            return "BOOL"
        names = {"i": "INT", "u": "UINT", "f": "FP"}
        bits = self.item_bytes * 8
        return f"{names[self.kind]}{bits}" if self.kind in names and bits <= 64 else ""


class _Type(Struct, frozen=True):
    kind: str
    item_bytes: int
    has_object: bool


def _read_type(value: Value, position: int, depth: int = 0) -> _Type:
    """The datatype a pickled `numpy.dtype` stands for.

    Raises:
        Hostile: it is none, or contradicts itself.
    """
    if depth > MAX_DEPTH or not (isinstance(value, Obj) and value.type_name == "numpy.dtype" and value.args):
        raise Hostile("an array whose datatype is no numpy.dtype", position)
    text = value.args[0]
    match = _CODE.match(text) if isinstance(text, str) else None
    if match is None:
        raise Hostile(f"an array of unknown datatype {text!r:.40}", position)
    kind = "?" if match[1] == "b" else match[1]
    item_bytes = int(match[2]) * (4 if kind == "U" else 1)
    if not value.builds:
        return _Type(kind, item_bytes, kind == "O")
    state = value.state
    if value.builds > 1 or not (isinstance(state, tuple) and len(state) in (8, 9)):
        raise Hostile("a numpy.dtype with another state than NumPy writes", position)
    size, flags = state[5], state[7]
    if not isinstance(size, int) or not isinstance(flags, int) or state[0] not in (3, 4):
        raise Hostile("a numpy.dtype with another state than NumPy writes", position)
    if (kind in "SUV" and size != item_bytes) or (kind not in "SUV" and size not in (-1, item_bytes)):
        raise Hostile("a numpy.dtype that gives two lengths", position)
    has_object = kind == "O" or (kind == "V" and _fields_have_object(state, position, depth))
    if has_object != bool(flags & _OBJECT_FLAG):
        raise Hostile("a numpy.dtype that is of objects and not of objects", position)
    return _Type(kind, item_bytes, has_object)


def _fields_have_object(state: tuple[Value, ...], position: int, depth: int) -> bool:
    parts: list[Value] = []
    if isinstance(state[4], Dict):
        parts += [entry[0] for entry in state[4].names.values() if isinstance(entry, tuple) and entry]
    if isinstance(state[2], tuple) and state[2]:
        parts.append(state[2][0])
    found = [_read_type(part, position, depth + 1).has_object for part in parts]  # each one is checked
    return any(found)


def _read_shape(value: Value) -> tuple[int, ...] | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, tuple) or len(value) > 64:
        return None
    return tuple(value) if all(type(n) is int and n >= 0 for n in value) else None


def read_wrapped_array(wrapper: Obj, source: Source) -> bool:
    """Move `source` past the raw bytes behind a joblib wrapper; True when a pickle stream lies there instead.

    Raises:
        Hostile: the wrapper is not as joblib writes it.
        Truncated: the array is longer than the file.
    """
    position = source.position
    state = wrapper.state
    if (
        not isinstance(state, Dict)
        or state.others
        or not (WRAPPER_KEYS <= set(state.names) <= WRAPPER_KEYS | {"numpy_array_alignment_bytes"})
    ):
        raise Hostile("a joblib array wrapper with other fields than joblib writes", position)
    kind = _read_type(state.names["dtype"], position)
    shape = _read_shape(state.names["shape"])
    subclass = state.names["subclass"]
    if shape is None or not (isinstance(subclass, Global) and subclass.module == "numpy"):
        raise Hostile("a joblib array wrapper with other fields than joblib writes", position)
    if kind.has_object:
        return True
    alignment = state.names.get("numpy_array_alignment_bytes")
    if alignment is not None:
        source.skip(source.read(1)[0])
    source.skip(math.prod(shape) * kind.item_bytes)
    return False


def as_array(value: Value) -> Array | None:
    """The array that `value` stands for; None when it stands for something else."""
    if not isinstance(value, Obj) or value.void:
        return None
    name = value.type_name
    try:
        if name == "joblib.numpy_pickle.NumpyArrayWrapper" and isinstance(value.state, Dict):
            if value.payload is not None:
                return as_array(value.payload)
            return _described(value.state.names["dtype"], value.state.names["shape"], None)
        if name.endswith("._reconstruct") and isinstance(value.state, tuple) and len(value.state) == 5:
            _, shape, dtype, _, data = value.state
            return _described(dtype, shape, data)
        if name.endswith("._frombuffer") and len(value.args) >= 3:
            return _described(value.args[1], value.args[2], None)
        if name.endswith(".scalar") and value.args:
            return _described(value.args[0], (), None)
    except (Hostile, KeyError):
        return None
    return None


def _described(dtype: Value, shape: Value, data: Value) -> Array | None:
    kind = _read_type(dtype, 0)
    lengths = _read_shape(shape)
    if lengths is None:
        return None
    return Array(kind.kind, kind.item_bytes, lengths, data.kept if isinstance(data, List) else [])
