"""Gzip members: a layer is many of them in a row, and each of our three kinds is the same bytes on any machine.

Takes plain bytes, hands on one complete member:

1. `headers`: tar headers, by our own fixed-Huffman encoder (`huffman.py`);
2. `packed`: up to 4 MiB, by the pinned libdeflate at level 6, or as it is when packing would gain under a tenth;
3. a spliced file is `HEAD`, somebody else's deflate stream, `tail(crc, size)`; `layer.py` writes that.

Spec: RFC 1952, "Member format"; a file may hold several members.
"""

from __future__ import annotations

import struct
import zlib

from intermodal.oci.huffman import fixed_block

HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, no system
PIECE_BYTES = 4 << 20
LEVEL = 6
_SAMPLE_BYTES = 64 << 10
_STORED_BYTES = 65535


def tail(crc: int, size_bytes: int) -> bytes:
    """What ends a member: CRC-32 and size of the plain bytes."""
    return struct.pack("<II", crc, size_bytes & 0xFFFFFFFF)


def headers(data: bytes) -> bytes:
    """A member of tar headers and padding."""
    return HEAD + fixed_block(data) + tail(zlib.crc32(data), len(data))


def packed(piece: bytes) -> bytes:
    """A member of at most 4 MiB of anything, compressed when that gains a tenth or more."""
    import deflate

    body: bytes | bytearray | None = None
    if not _looks_random(piece):
        body = deflate.deflate_compress(piece, LEVEL)
    if body is None or len(body) * 10 > len(piece) * 9:
        body = _stored(piece)
    return HEAD + body + tail(deflate.crc32(piece), len(piece))


def _looks_random(piece: bytes) -> bool:
    """Whether four samples of a large piece say that compressing it is wasted time (weights, images, archives)."""
    if len(piece) < 16 * _SAMPLE_BYTES:
        return False
    import deflate

    step = len(piece) // 4
    sample = b"".join(piece[i * step : i * step + _SAMPLE_BYTES] for i in range(4))
    return len(deflate.deflate_compress(sample, 1)) * 10 > len(sample) * 9


def _stored(piece: bytes) -> bytes:
    """A raw deflate stream of stored blocks."""
    parts: list[bytes] = []
    for start in range(0, max(len(piece), 1), _STORED_BYTES):
        block = piece[start : start + _STORED_BYTES]
        last = start + _STORED_BYTES >= len(piece)
        parts += (struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block)
    return b"".join(parts)
