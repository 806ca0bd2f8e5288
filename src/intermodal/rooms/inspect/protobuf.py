"""A small protobuf reader: the fields of a message inside a buffer, without a schema and without copies.

Takes a buffer (usually a memory map, so a gigabyte of weights is never touched) and a range in it; hands on fields as
(number, value): an int for varints and fixed widths, a `Span` for everything with a length.

Spec: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

from msgspec import Struct

MAX_TEXT_BYTES = 1 << 16
Buffer = bytes | mmap


class ProtobufError(Exception):
    """The bytes are no message; `position` says where, `truncated` whether more bytes might have made them one."""

    def __init__(self, why: str, position: int, *, truncated: bool = False) -> None:
        super().__init__(f"{why} at byte {position}")
        self.position = position
        self.truncated = truncated


class Span(Struct, frozen=True):
    """A range of a buffer: a string, bytes, or a message inside."""

    buffer: Buffer
    start: int
    end: int

    def text(self) -> str:
        """The range as text, at most 64 KiB of it."""
        return self.buffer[self.start : min(self.end, self.start + MAX_TEXT_BYTES)].decode("utf-8", "replace")

    def fields(self) -> Iterator[tuple[int, int | Span]]:
        """The fields of the message in this range, in order.

        Raises:
            ProtobufError: it is none.
        """
        position = self.start
        while position < self.end:
            key, position = self._varint(position)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise ProtobufError("field number 0", position)
            if wire == 0:
                value, position = self._varint(position)
                yield number, value
            elif wire in (1, 5):
                width = 8 if wire == 1 else 4
                self._need(position, width)
                yield number, int.from_bytes(self.buffer[position : position + width], "little")
                position += width
            elif wire == 2:
                length, position = self._varint(position)
                self._need(position, length)
                yield number, Span(self.buffer, position, position + length)
                position += length
            else:
                raise ProtobufError(f"wire type {wire}", position)

    def _need(self, position: int, length: int) -> None:
        if position + length > self.end:
            raise ProtobufError(f"a field of {length} bytes does not fit", position, truncated=True)

    def _varint(self, position: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            if position >= self.end:
                raise ProtobufError("the message ends inside a number", position, truncated=True)
            byte = self.buffer[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
        raise ProtobufError("a number of more than ten bytes", position)
