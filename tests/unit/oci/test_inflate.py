"""Deflate streams read in pieces: whole at every length around a piece, and never beyond what was announced."""

from __future__ import annotations

import zlib

import pytest

from intermodal.errors import PackageFileError
from intermodal.oci import inflate
from intermodal.oci.entry import Deflated

PIECE = inflate._PIECE_BYTES
LENGTHS = (
    0,
    1,
    PIECE - 1,
    PIECE,
    PIECE + 1,
    PIECE + 2,
    PIECE + 3,
    PIECE + 400,
    2 * PIECE + 1,
    2 * PIECE + 5,
    5 * PIECE,
)


def stream(data: bytes, level: int = 9, size_bytes: int | None = None) -> Deflated:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    raw = packer.compress(data) + packer.flush()
    return Deflated(raw, zlib.crc32(data), len(data) if size_bytes is None else size_bytes, "", b"", "demo.whl")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("unit", [b"\0", b"abc", bytes(range(256))])
def test_a_stream_of_few_bytes_and_long_content_comes_out_whole(length: int, unit: bytes) -> None:
    data = (unit * (length // len(unit) + 1))[:length]
    for level in (1, 9):
        assert b"".join(inflate.verified(stream(data, level), "x")) == data


@pytest.mark.parametrize("length", LENGTHS[2:])
@pytest.mark.parametrize("lie", [-1, 1])
def test_a_stream_of_another_length_is_refused(length: int, lie: int) -> None:
    with pytest.raises(PackageFileError, match=r"longer than|ends 1 bytes early"):
        list(inflate.inflate(stream(bytes(length), size_bytes=length + lie), "x"))


def test_what_a_bomb_holds_is_not_inflated() -> None:
    given = sum(len(piece) for piece in _until_refused(stream(bytes(64 << 20), size_bytes=1000)))
    assert given <= 1000


def _until_refused(deflated: Deflated) -> list[bytes]:
    pieces = []
    with pytest.raises(PackageFileError, match="longer than the 1000 bytes"):
        pieces.extend(inflate.inflate(deflated, "x"))
    return pieces
