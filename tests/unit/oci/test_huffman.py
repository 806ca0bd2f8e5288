import hashlib
import random
import zlib

import pytest

from intermodal.oci import member
from intermodal.oci.huffman import fixed_block


def inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-15)
    plain = inflater.decompress(data)
    assert inflater.eof and not inflater.unused_data
    return plain


@pytest.mark.parametrize("count", [*range(1, 12), *range(255, 265), 511, 512, 513, 1024, 65536])
def test_runs_of_zeros_of_every_length_code_come_back(count: int) -> None:
    assert inflate(fixed_block(bytes(count))) == bytes(count)
    assert inflate(fixed_block(b"x" + bytes(count) + b"y")) == b"x" + bytes(count) + b"y"


def test_every_byte_value_comes_back() -> None:
    every = bytes(range(256))
    assert inflate(fixed_block(every)) == every
    assert inflate(fixed_block(every[::-1] * 3)) == every[::-1] * 3


def test_random_mixtures_come_back() -> None:
    dice = random.Random(7)
    for _ in range(300):
        parts = [
            dice.choice([bytes(dice.randrange(700)), dice.randbytes(dice.randrange(60)), b"usr/lib"]) for _ in range(6)
        ]
        data = b"".join(parts)
        assert inflate(fixed_block(data)) == data


def test_the_bytes_are_those_of_layout_version_1() -> None:
    # A change here changes the digest of every image: raise LAYOUT_VERSION with it.
    assert fixed_block(b"a\0\0\0\0\0\0b").hex() == "4b6400832400"
    header = b"opt/" + bytes(96) + b"0000755\0"
    assert member.headers(header).hex() == ("1f8b08000000000000ffcb2f28d167a03130303030303735650000750628d26c000000")


def test_the_packed_bytes_are_those_of_the_pinned_encoder() -> None:
    # Another libdeflate, another digest of every image: raise CODEC with it.
    piece = bytes(range(256)) * 300
    assert hashlib.sha256(member.packed(piece)).hexdigest() == (
        "4f3ef88ee850e05352d7a33d7998ceabf8b00ad61303c49ae67738f36de7476f"
    )


def test_random_data_is_stored_and_text_is_packed() -> None:
    noise = random.Random(1).randbytes(3 << 20)
    text = b"the same words again " * 50_000
    assert len(member.packed(noise)) < len(noise) + 400
    assert len(member.packed(text)) < len(text) // 50
    for plain in (noise, text, b"", b"x", noise[:100_000], bytes(65535), noise[:65536]):
        stored = member.packed(plain)
        assert zlib.decompress(stored, 31) == plain


def test_a_piece_that_only_looks_random_at_its_ends_is_still_right() -> None:
    noise = random.Random(2).randbytes(1 << 20)
    piece = noise + bytes(2 << 20) + noise
    assert zlib.decompress(member.packed(piece), 31) == piece
    assert len(member.packed(piece)) < len(piece) * 6 // 10
