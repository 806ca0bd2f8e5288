"""Frames between front and worker: a length, a JSON header, then the raw bytes of its tensors.

    u32 little-endian length of the header | header (JSON, UTF-8) | bytes of tensor 1 | bytes of tensor 2 | …

Takes a header and tensors, hands on bytes, and back. The header's `tensors` lists name, datatype, shape and size of
what follows. One request is answered before the next is sent, so there is nothing to correlate but `id`.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

from intermodal_server.contract import DATATYPES
from intermodal_server.tensors import Buffer, Tensor

MAX_HEADER_BYTES = 16 << 20
MAX_TENSOR_BYTES = 8 << 30
_LENGTH = struct.Struct("<I")

TensorSlot = tuple[str, str, tuple[int, ...], int]  # name, datatype, shape, size in bytes


class FrameError(ValueError):
    """The other side does not keep to the frame format; the connection is of no more use."""


def pack(header: dict[str, Any], tensors: Sequence[Tensor] = ()) -> list[Buffer]:
    """The buffers of one frame, to be written one after the other."""
    slots = [[t.name, t.datatype, list(t.shape), len(t.data)] for t in tensors]
    text = json.dumps({**header, "tensors": slots}, separators=(",", ":")).encode()
    return [_LENGTH.pack(len(text)) + text, *(t.data for t in tensors)]


def header_length(prefix: bytes) -> int:
    """How long the header is that follows these four bytes.

    Raises:
        FrameError: longer than any header may be.
    """
    length: int = _LENGTH.unpack(prefix)[0]
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise FrameError(f"frame header of {length} bytes")
    return length


def parse_header(text: Buffer) -> tuple[dict[str, Any], list[TensorSlot]]:
    """The header, and what tensors follow it.

    Raises:
        FrameError: not a header.
    """
    try:
        header = json.loads(bytes(text))
        slots: list[TensorSlot] = []
        for name, datatype, shape, size in header.pop("tensors"):
            if datatype not in DATATYPES or type(size) is not int or not 0 <= size <= MAX_TENSOR_BYTES:
                raise FrameError(f"frame with a tensor of {size!r} bytes and type {datatype!r}")
            slots.append((str(name), datatype, tuple(int(length) for length in shape), size))
        return header, slots
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FrameError(f"not a frame header: {error}") from error


def _receive_exactly(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = connection.recv_into(view[filled:])
        if count == 0:
            return None
        filled += count
    return data


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[Tensor]] | None:
    """The next frame of a blocking socket, or None when the other side has closed it.

    Raises:
        FrameError: not a frame.
    """
    prefix = _receive_exactly(connection, _LENGTH.size)
    if prefix is None:
        return None
    text = _receive_exactly(connection, header_length(bytes(prefix)))
    if text is None:
        return None
    header, slots = parse_header(text)
    tensors = []
    for name, datatype, shape, size in slots:
        data = _receive_exactly(connection, size)
        if data is None:
            return None
        tensors.append(Tensor(name, datatype, shape, data))
    return header, tensors


def send(connection: socket.socket, header: dict[str, Any], tensors: Sequence[Tensor] = ()) -> None:
    """Write one frame to a blocking socket."""
    buffers = pack(header, tensors)
    if sum(len(buffer) for buffer in buffers) <= 1 << 16:
        connection.sendall(b"".join(buffers))  # one system call wakes the reader once
        return
    for buffer in buffers:
        connection.sendall(buffer)
