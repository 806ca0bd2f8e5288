"""Frames between front and worker: two lengths, a JSON header, then the raw bytes of its tensors.

    u32 length of the header | u32 length of the bytes | header (JSON, UTF-8) | bytes of the tensors, one by one

Takes a header and tensors, hands on bytes, and back. The header's `tensors` lists name, datatype, shape, size, and
where the data is: -1 for the bytes that follow, else its place in a `Slab`. One request is answered before the next
is sent, so there is nothing to correlate and the slabs are free for it.

The first frame of the front brings the descriptors of two slabs, `slabs: 2`: one for requests, one for answers; a
frame with `slabs: 1` brings another one for requests, because the model has kept a view of the old one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional

from intermodal_server.contract import DATATYPES
from intermodal_server.slab import Slab, aligned
from intermodal_server.tensors import Buffer, elements

MAX_HEADER_BYTES = 16 << 20
MAX_BYTES = (1 << 32) - 1
SLAB_LEAST_BYTES = 32 << 10  # from here on a slab is cheaper than the socket
PREFIX = struct.Struct("<II")

# name, datatype, shape and data in one or several pieces
Outgoing = tuple[str, str, Sequence[int], Sequence[Buffer]]
TensorSlot = tuple[str, str, tuple[int, ...], int, int]  # name, datatype, shape, size in bytes, place or -1

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class FrameError(ValueError):
    """The other side does not keep to the frame format; the connection is of no more use."""


def _dumps(document: Any) -> bytes:
    return _encode(document).encode()


def place(tensors: Iterable[Outgoing], slab: Optional[Slab]) -> tuple[list[Any], list[Buffer]]:
    """What the header says of `tensors`, and the data that must follow it; large ones are in `slab` afterwards.

    Raises:
        SlabError: no room in the slab.
    """
    slots: list[Any] = []
    inline: list[Buffer] = []
    large: list[tuple[int, Sequence[Buffer]]] = []
    shared = 0
    for name, datatype, shape, parts in tensors:
        size = sum([len(part) for part in parts])
        if slab is not None and size >= SLAB_LEAST_BYTES:
            slots.append((name, datatype, shape, size, shared))
            large.append((shared, parts))
            shared = aligned(shared + size)
        else:
            slots.append((name, datatype, shape, size, -1))
            inline.extend(parts)
    if slab is not None and large:
        slab.reserve(shared)
        for begin, parts in large:
            _fill(slab, begin, parts)
    return slots, inline


def pack(
    header: dict[str, Any], slots: list[Any], inline: Sequence[Buffer], dumps: Callable[[Any], bytes] = _dumps
) -> list[Buffer]:
    """The buffers of one frame, to be written one after the other.

    Raises:
        FrameError: too large for a frame.
    """
    header["tensors"] = slots
    text = dumps(header)
    size = sum([len(part) for part in inline])
    if size > MAX_BYTES or len(text) > MAX_HEADER_BYTES:
        raise FrameError(f"a frame of {size} bytes with a header of {len(text)}")
    return [PREFIX.pack(len(text), size) + text, *inline]


def _fill(slab: Slab, begin: int, parts: Sequence[Buffer]) -> None:
    for part in parts:
        with slab.view(begin, len(part)) as view:
            view[:] = part
        begin += len(part)


def lengths(prefix: Buffer) -> tuple[int, int]:
    """How long header and bytes are that follow this prefix.

    Raises:
        FrameError: longer than any header may be.
    """
    header, inline = PREFIX.unpack_from(prefix)
    if not 2 <= header <= MAX_HEADER_BYTES:
        raise FrameError(f"frame header of {header} bytes")
    return int(header), int(inline)


def parse_header(text: Buffer, loads: Callable[[Any], Any] = json.loads) -> tuple[dict[str, Any], list[TensorSlot]]:
    """The header, and where its tensors are.

    Raises:
        FrameError: not a header.
    """
    try:
        header = loads(text)
        slots: list[TensorSlot] = []
        for name, datatype, shape, size, place in header.pop("tensors"):
            if type(size) is not int or type(place) is not int or size < 0:
                raise FrameError(f"frame with a tensor of {size!r} bytes at {place!r}")
            if datatype not in DATATYPES or [n for n in shape if type(n) is not int or n < 0]:
                raise FrameError(f"frame with a tensor of type {datatype!r} and shape {shape!r}")
            if DATATYPES[datatype] and size != elements(shape) * DATATYPES[datatype]:
                raise FrameError(f"frame with a tensor of {size} bytes for shape {shape!r} of {datatype}")
            slots.append((str(name), datatype, tuple(shape), size, place))
        return header, slots
    except FrameError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FrameError(f"not a frame header: {error}") from error
