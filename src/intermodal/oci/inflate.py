"""Reading somebody else's deflate streams: in bounded pieces, exactly to their end, against every promise.

Takes a `Deflated`, hands on its plain bytes. isal only reads here; what it would write depends on the CPU.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from typing import cast

from intermodal.errors import PackageFileError
from intermodal.oci.entry import Deflated

_READ_BYTES = 64 << 10
_PIECE_BYTES = 1 << 20  # stays in the cache while it is hashed
SPAN_BYTES = 16 << 20  # of a mapped archive that are held in memory at once
_SMALL_BYTES = 1 << 20  # thousands of small streams together are not worth a system call each


def spans(raw: bytes | memoryview) -> Iterator[memoryview]:
    """`raw` in pieces; where it is mapped from a file and large, the memory of each is given back after its use."""
    whole = memoryview(raw)
    for start in range(0, len(whole), SPAN_BYTES):
        yield whole[start : start + SPAN_BYTES]
        if len(whole) > _SMALL_BYTES:
            let_go(whole)


def let_go(raw: bytes | memoryview) -> None:
    """Give back the memory of the mapped file that `raw` is a part of; it is read again where it is needed again."""
    if isinstance(raw, memoryview) and isinstance(raw.obj, mmap.mmap):
        raw.obj.madvise(mmap.MADV_DONTNEED)


def begins_with(stream: Deflated, path: str, prefix: bytes) -> bool:
    """Whether the plain bytes begin so; reads no further and verifies nothing.

    Raises:
        PackageFileError: the stream is damaged at its beginning.
    """
    from isal import isal_zlib

    try:
        start = isal_zlib.decompressobj(-15).decompress(memoryview(stream.raw)[: 64 << 10], len(prefix))
    except _failures() as error:
        raise broken(stream, path, f"its deflate stream is damaged ({error})") from error
    return bytes(start) == prefix


def _failures() -> type[Exception]:
    from isal import igzip_lib

    return cast("type[Exception]", igzip_lib.IsalError)


def broken(stream: Deflated, path: str, why: str) -> PackageFileError:
    """The error for a stream that is not what its archive promises."""
    return PackageFileError(
        f"cannot use {stream.source or path}",
        found=f"{path}: {why}",
        next="fetch it again; if it is still so, its publisher has to repair it",
    )


def inflate(stream: Deflated, path: str) -> Iterator[bytes]:
    """The plain bytes of a deflate stream, in pieces.

    Raises:
        PackageFileError: the stream is damaged, longer or shorter than announced, or does not fill its space exactly.
    """
    from isal import isal_zlib

    failures = _failures()
    inflater = isal_zlib.decompressobj(-15)
    raw = memoryview(stream.raw)
    left = stream.size_bytes
    start = 0
    try:
        while start < len(raw) and not inflater.eof:
            data: bytes | memoryview = raw[start : start + _READ_BYTES]
            start += len(data)
            if start % SPAN_BYTES == 0:
                let_go(raw)
            held = True  # plain bytes may wait inside although all input is taken: a full piece is never the last one
            while (data or held) and not inflater.eof:
                room = min(left, _PIECE_BYTES) + 1
                chunk = inflater.decompress(data, room)
                data = inflater.unconsumed_tail
                held = len(chunk) == room
                left -= len(chunk)
                if left < 0:
                    raise broken(stream, path, f"it is longer than the {stream.size_bytes} bytes it announces")
                if chunk:
                    yield chunk
    except failures as error:
        raise broken(stream, path, f"its deflate stream is damaged ({error})") from error
    if not inflater.eof or left:
        raise broken(stream, path, f"it ends {left} bytes early")
    if inflater.unused_data or start < len(raw):
        raise broken(stream, path, "bytes follow the end of its deflate stream")


def verified(stream: Deflated, path: str) -> Iterator[bytes]:
    """The plain bytes of a stream; its CRC and hash are checked after the last piece."""
    from isal import isal_zlib

    hasher = hashlib.new(stream.algorithm) if stream.algorithm else None
    crc = 0
    for chunk in inflate(stream, path):
        crc = isal_zlib.crc32(chunk, crc)
        if hasher is not None:
            hasher.update(chunk)
        yield chunk
    if crc != stream.crc32:
        raise broken(stream, path, "its CRC-32 is another than the archive says")
    if hasher is not None and hasher.digest() != stream.expected:
        raise broken(stream, path, f"its {stream.algorithm} is another than RECORD says")
