"""The opcodes that push plain data: numbers, text, bytes, and the small change of the stack.

One half of the machine; `machine.py` holds the other, which names, builds and calls. Everything is decoded as
CPython's unpicklers do it; what is longer than `KEPT_BYTES` is passed over and stands as a `Blob`.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from intermodal.rooms.inspect.pickles.source import Source
from intermodal.rooms.inspect.pickles.values import KEPT_BYTES, Blob, Damaged, LimitExceeded, Value

LINE_BYTES = 1 << 20
Handler = Callable[[Any], None]
TABLE: dict[bytes, Handler] = {}


def opcode(code: bytes) -> Callable[[Handler], Handler]:
    """Register a method as the handler of one opcode."""

    def register(handler: Handler) -> Handler:
        TABLE[code] = handler
        return handler

    return register


class Literals:
    """Stack, source, and the opcodes that push plain data."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.read = source.read
        self.stack: list[Value] = []
        self.push = self.stack.append
        self.protocol = 0

    def line(self) -> bytes:
        """The argument of a text opcode."""
        return self.source.line(LINE_BYTES)

    def content(self, size_bytes: int, *, text: bool) -> Value:
        """`size_bytes` bytes as text or bytes, or a `Blob` when they are many."""
        if size_bytes <= KEPT_BYTES:
            data = self.read(size_bytes)
            return data.decode("utf-8", "surrogatepass") if text else data
        head = self.read(KEPT_BYTES // 64)
        self.source.skip(size_bytes - len(head))
        return Blob(size_bytes, head, text=text)

    @opcode(b"N")
    def _op_none(self) -> None:
        self.push(None)

    @opcode(b"\x88")
    def _op_true(self) -> None:
        self.push(True)

    @opcode(b"\x89")
    def _op_false(self) -> None:
        self.push(False)

    @opcode(b"I")
    def _op_int_text(self) -> None:
        data = self.line()
        if data in (b"00", b"01"):
            self.push(data == b"01")
        else:
            self.push(int(data, 0))

    @opcode(b"L")
    def _op_long_text(self) -> None:
        data = self.line()
        self.push(int(data[:-1] if data.endswith(b"L") else data, 0))

    @opcode(b"J")
    def _op_int4(self) -> None:
        self.push(int.from_bytes(self.read(4), "little", signed=True))

    @opcode(b"K")
    def _op_int1(self) -> None:
        self.push(self.read(1)[0])

    @opcode(b"M")
    def _op_int2(self) -> None:
        self.push(int.from_bytes(self.read(2), "little"))

    @opcode(b"\x8a")
    def _op_long1(self) -> None:
        self.push(int.from_bytes(self.read(self.read(1)[0]), "little", signed=True))

    @opcode(b"\x8b")
    def _op_long4(self) -> None:
        size = int.from_bytes(self.read(4), "little", signed=True)
        if size < 0:
            raise Damaged("a number of negative length", self.source.position)
        if size > KEPT_BYTES:
            raise LimitExceeded(f"a number of {size} bytes", self.source.position)
        self.push(int.from_bytes(self.read(size), "little", signed=True))

    @opcode(b"F")
    def _op_float_text(self) -> None:
        self.push(float(self.line()))

    @opcode(b"G")
    def _op_float8(self) -> None:
        self.push(struct.unpack(">d", self.read(8))[0])

    @opcode(b"S")
    def _op_string_text(self) -> None:
        data = self.line()
        if len(data) < 2 or data[:1] != data[-1:] or data[:1] not in (b"'", b'"'):
            raise Damaged("a STRING without its quotes", self.source.position)
        self.push(codecs.escape_decode(data[1:-1])[0].decode("latin-1"))

    @opcode(b"T")
    def _op_string4(self) -> None:
        size = int.from_bytes(self.read(4), "little", signed=True)
        if size < 0:
            raise Damaged("a string of negative length", self.source.position)
        self._latin(size)

    @opcode(b"U")
    def _op_string1(self) -> None:
        self._latin(self.read(1)[0])

    def _latin(self, size: int) -> None:
        value = self.content(size, text=False)
        self.push(value.decode("latin-1") if isinstance(value, bytes) else value)

    @opcode(b"V")
    def _op_unicode_text(self) -> None:
        self.push(self.line().decode("raw-unicode-escape"))

    @opcode(b"\x8c")
    def _op_unicode1(self) -> None:
        self.push(self.read(self.read(1)[0]).decode("utf-8", "surrogatepass"))

    @opcode(b"X")
    def _op_unicode4(self) -> None:
        self.push(self.content(int.from_bytes(self.read(4), "little"), text=True))

    @opcode(b"\x8d")
    def _op_unicode8(self) -> None:
        self.push(self.content(int.from_bytes(self.read(8), "little"), text=True))

    @opcode(b"C")
    def _op_bytes1(self) -> None:
        self.push(self.read(self.read(1)[0]))

    @opcode(b"B")
    def _op_bytes4(self) -> None:
        self.push(self.content(int.from_bytes(self.read(4), "little"), text=False))

    @opcode(b"\x8e")
    def _op_bytes8(self) -> None:
        self.push(self.content(int.from_bytes(self.read(8), "little"), text=False))

    @opcode(b"\x96")
    def _op_bytearray8(self) -> None:
        self.push(self.content(int.from_bytes(self.read(8), "little"), text=False))

    @opcode(b"\x98")
    def _op_readonly_buffer(self) -> None:
        self.stack[-1]

    @opcode(b"2")
    def _op_dup(self) -> None:
        self.push(self.stack[-1])

    @opcode(b")")
    def _op_empty_tuple(self) -> None:
        self.push(())

    @opcode(b"\x85")
    def _op_tuple1(self) -> None:
        self.stack[-1] = (self.stack[-1],)

    @opcode(b"\x86")
    def _op_tuple2(self) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    @opcode(b"\x87")
    def _op_tuple3(self) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    @opcode(b"\x80")
    def _op_proto(self) -> None:
        self.protocol = self.read(1)[0]
        if self.protocol > 5:
            raise Damaged(f"pickle protocol {self.protocol}, which no Python has", self.source.position)
