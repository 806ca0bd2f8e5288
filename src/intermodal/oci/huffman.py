"""Tar headers as deflate: one block of the fixed Huffman code, literals and runs of zeros, nothing else.

Takes the few hundred bytes between two spliced files, hands on a raw deflate stream. No compressor library touches
these bytes, so they depend on this file alone; it belongs to the layout version.

Rules: bytes are literals; a run of four or more zeros is one literal zero and matches at distance 1, longest first.
A header takes about 13 µs because `bytes.translate` encodes whole stretches: literals below 144 have 8 bits each.
It does not look for any other repetition; for anything but headers use `member.packed`.

Spec: RFC 1951, section "Compression with fixed Huffman codes".
"""

from __future__ import annotations

import re
from functools import cache

_RUN = re.compile(rb"\0{4,}")
_NINE_BITS = re.compile(rb"[\x90-\xff]")


def _reversed(code: int, bits: int) -> int:
    return int(f"{code:0{bits}b}"[::-1], 2)  # Huffman codes go in from their most significant bit


_EIGHT = bytes(_reversed(0x30 + byte, 8) if byte < 144 else 0 for byte in range(256))
_NINE = {byte: _reversed(0x190 + byte - 144, 9) for byte in range(144, 256)}


@cache
def _length_code(length: int) -> tuple[int, int]:
    """The bits of a match of `length` (3 to 258) at distance 1, and how many they are."""
    if length == 258:
        symbol, extra, extra_bits = 285, 0, 0
    elif length < 11:
        symbol, extra, extra_bits = 254 + length, 0, 0
    else:
        extra_bits = (length - 3).bit_length() - 3
        step = (length - 3) >> extra_bits  # 4 to 7
        symbol, extra = 257 + 4 * extra_bits + step, (length - 3) & ((1 << extra_bits) - 1)
    code, bits = (_reversed(symbol - 256, 7), 7) if symbol < 280 else (_reversed(0xC0 + symbol - 280, 8), 8)
    return code | extra << bits, bits + extra_bits + 5  # the distance code is five zero bits


@cache
def _zeros(count: int) -> tuple[int, int]:
    """The bits of `count` zeros, and how many they are."""
    value, bits = _EIGHT[0], 8
    count -= 1
    while count >= 3:
        length = min(count, 258)
        code, width = _length_code(length)
        value |= code << bits
        bits += width
        count -= length
    for _ in range(count):
        value |= _EIGHT[0] << bits
        bits += 8
    return value, bits


def _literals(data: bytes) -> tuple[int, int]:
    """The bits of `data` byte by byte, and how many they are."""
    value = bits = start = 0
    for match in _NINE_BITS.finditer(data):
        plain = data[start : match.start()]
        value |= int.from_bytes(plain.translate(_EIGHT), "little") << bits
        bits += 8 * len(plain)
        value |= _NINE[data[match.start()]] << bits
        bits += 9
        start = match.end()
    plain = data[start:]
    return value | int.from_bytes(plain.translate(_EIGHT), "little") << bits, bits + 8 * len(plain)


def fixed_block(data: bytes) -> bytes:
    """A complete raw deflate stream that inflates to `data`.

    >>> import zlib
    >>> zlib.decompress(fixed_block(b"ustar" + bytes(500)), -15) == b"ustar" + bytes(500)
    True
    """
    value, bits = 0b011, 3  # last block, fixed code
    start = 0
    for match in _RUN.finditer(data):
        if match.start() > start:
            code, width = _literals(data[start : match.start()])
            value |= code << bits
            bits += width
        code, width = _zeros(match.end() - match.start())
        value |= code << bits
        bits += width
        start = match.end()
    if start < len(data):
        code, width = _literals(data[start:])
        value |= code << bits
        bits += width
    bits += 7  # end of block: seven zero bits
    return value.to_bytes((bits + 7) // 8, "little")
