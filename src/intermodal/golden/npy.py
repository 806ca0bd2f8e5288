"""NumPy's array files read without NumPy: `.npy`, and the `.npz` archives of them.

Takes bytes, hands on `Values`: datatype, shape and flat values in row-major order, ready for JSON.

Rules, in order:
1. Nothing is unpickled: arrays of objects are refused.
2. Sizes are checked before anything is unpacked, so a header cannot ask for more than the file holds.
3. NaN becomes None; infinities are refused, JSON has no form for them.

Spec: numpy.lib.format, versions 1.0 to 3.0.
"""

from __future__ import annotations

import ast
import itertools
import struct
from collections.abc import Iterator
from math import isinf, isnan, prod
from typing import Any

from msgspec import Struct

from intermodal.errors import InputError

MAX_BYTES = 256 << 20
_MAGIC = b"\x93NUMPY"
_KINDS = {
    "f2": ("FP16", "e"), "f4": ("FP32", "f"), "f8": ("FP64", "d"),
    "i1": ("INT8", "b"), "i2": ("INT16", "h"), "i4": ("INT32", "i"), "i8": ("INT64", "q"),
    "u1": ("UINT8", "B"), "u2": ("UINT16", "H"), "u4": ("UINT32", "I"), "u8": ("UINT64", "Q"),
    "b1": ("BOOL", "?"),
}  # fmt: skip


class Values(Struct, frozen=True):
    """One array: `data` is flat and row-major, of bool, int, float, str or None."""

    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


def _broken(name: str, found: str, next_: str = "write it again with numpy.save") -> InputError:
    return InputError(f"cannot read {name}", found=found, next=next_)


def read_npy(data: bytes, name: str) -> Values:
    """The array in a `.npy` file; `name` is used in messages.

    Raises:
        InputError: not such a file, truncated, or a dtype that has no place in a request.
    """
    descriptor, fortran, shape, start = _header(data, name)
    order, code = (descriptor[0], descriptor[1:]) if descriptor[:1] in "<>|=" else ("=", descriptor)
    count = prod(shape)
    if code[:1] == "O":
        raise _broken(
            name, "an array of objects, which only unpickling could read", "save numbers or strings: X.astype(str)"
        )
    if code[:1] in "US" and code[1:].isdigit():
        values: list[Any] = _strings(data[start:], code, order, count, name)
        datatype = "BYTES"
    elif code in _KINDS:
        datatype, letter = _KINDS[code]
        prefix = ">" if order == ">" else "<"
        width = int(code[1:])
        if len(data) - start != count * width:
            raise _broken(name, f"{len(data) - start} bytes of data where shape {shape} needs {count * width}")
        values = list(struct.unpack_from(f"{prefix}{count}{letter}", data, start))
    else:
        raise _broken(name, f"dtype {descriptor!r}", "save numbers, bool or strings; dates as strings")
    if datatype in ("FP16", "FP32", "FP64"):
        values = finite(values, name)
    if fortran and len(shape) > 1:
        values = _row_major(values, shape)
    return Values(datatype, shape, values)


def finite(values: list[Any], name: str) -> list[Any]:
    """The numbers with NaN as None.

    Raises:
        InputError: one is infinite.
    """
    if any(isinf(value) for value in values):
        raise InputError(
            f"{name} holds an infinite number", found="JSON has no form for it", next="take it out, or make it NaN"
        )
    return [None if isnan(value) else value for value in values]


def _header(data: bytes, name: str) -> tuple[str, bool, tuple[int, ...], int]:
    if data[:6] != _MAGIC or len(data) < 10 or data[6] not in (1, 2, 3):
        raise _broken(name, "no NumPy array file")
    wide = data[6] > 1
    head = 12 if wide else 10
    length = int.from_bytes(data[8:head], "little")
    if len(data) < head + length or length > 1 << 20:
        raise _broken(name, "its header is truncated")
    try:
        header = ast.literal_eval(data[head : head + length].decode("utf-8" if data[6] == 3 else "latin-1"))
        descriptor, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        if not isinstance(descriptor, str):
            raise _broken(name, "a structured array", "save one .npz entry or one CSV column a field")
        if not all(type(n) is int and n >= 0 for n in shape) or prod(shape) > MAX_BYTES:
            raise ValueError(f"shape {shape!r}")
        return descriptor, bool(fortran), tuple(shape), head + length
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise _broken(name, f"its header is no NumPy header: {error}") from error


def _strings(data: bytes, code: str, order: str, count: int, name: str) -> list[Any]:
    width = int(code[1:]) * (4 if code[0] == "U" else 1)
    if len(data) != count * width:
        raise _broken(name, f"{len(data)} bytes of data where {count} strings of {width} bytes belong")
    encoding = "utf-8" if code[0] == "S" else ("utf-32-be" if order == ">" else "utf-32-le")
    pieces = (data[i : i + width] for i in range(0, len(data), width)) if width else iter([b""] * count)
    try:
        return [piece.decode(encoding).rstrip("\0") for piece in pieces]
    except UnicodeDecodeError as error:
        raise _broken(name, f"a string in it is not text: {error}") from error


def _row_major(values: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """Values stored column by column, row by row: what `save` writes for a transposed array or a DataFrame's values."""
    strides = [prod(shape[:axis]) for axis in range(len(shape))]
    places = itertools.product(*(range(0, n * stride, stride) for n, stride in zip(shape, strides, strict=True)))
    return [values[sum(place)] for place in places]


def read_npz(path_or_file: Any, name: str) -> dict[str, Values]:
    """The arrays in a `.npz` archive by name, in the archive's order.

    Raises:
        InputError: not such an archive, too large unpacked, or an array that `read_npy` refuses.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path_or_file) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                raise _broken(name, f"more than {MAX_BYTES >> 20} MiB unpacked", "take fewer rows")
            return dict(_members(archive, name))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise _broken(name, str(error) or "a damaged archive", "write it again with numpy.savez") from error


def _members(archive: Any, name: str) -> Iterator[tuple[str, Values]]:
    for info in archive.infolist():
        with archive.open(info) as stream:
            data = stream.read(MAX_BYTES + 1)
        key = info.filename.removesuffix(".npy")
        yield key, read_npy(data, f"{key} in {name}")
