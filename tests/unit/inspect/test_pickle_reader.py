"""The reader's own promises: little memory, quick reading, compressed streams in pieces."""

from __future__ import annotations

import pickle
import random
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hostile.pickles.corpus import WRAPPER, made, stream, wrapper_state

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.pickles.reader import read_pickle
from intermodal.rooms.inspect.pickles.source import Source, Unpacked
from intermodal.rooms.inspect.pickles.values import Dict, List


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    assert read_pickle(path).safe
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_two_gigabytes_of_array_are_passed_over(tmp_path: Path) -> None:
    count = (1 << 28) - 1  # doubles; the file is sparse
    head = b"\x80\x04" + made(WRAPPER) + wrapper_state(count=count)
    path = tmp_path / "big.joblib"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + count * 8)
        file.seek(0, 2)
        file.write(b".")
    assert path.stat().st_size > 1 << 31
    assert peak_bytes(path) < 8 << 20


def test_arrays_in_a_compressed_stream_are_not_held(tmp_path: Path) -> None:
    count = 4 << 20
    block = random.Random(0).randbytes(1 << 20)
    path = tmp_path / "big.joblib.z"
    path.write_bytes(zlib.compress(stream(made(WRAPPER) + wrapper_state(count=count) + block * 32), 1))
    assert peak_bytes(path) < 8 << 20


def test_long_values_are_kept_as_their_beginning(tmp_path: Path) -> None:
    path = tmp_path / "long.pkl"
    path.write_bytes(pickle.dumps(["x" * (8 << 20), b"y" * (8 << 20), {f"w{i}": i for i in range(100_000)}], 4))
    root = read_pickle(path).root
    assert isinstance(root, List)
    words = root.kept[2]
    assert isinstance(words, Dict)
    assert (words.total, len(words.names)) == (100_000, 1 << 16)


def test_plain_data_reads_as_itself(tmp_path: Path) -> None:
    value = (1, -5, 2**70, -(2**70), 3.25, "ü", b"b", True, None, (1, 2, 3, 4), -1, 70_000, ())
    for protocol in range(6):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        if protocol < 3:
            assert read_pickle(path).root[:6] == value[:6]  # type: ignore[index]
        else:
            assert read_pickle(path).root == value


def test_a_vocabulary_of_two_hundred_thousand_words_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "words.pkl"
    path.write_bytes(pickle.dumps({f"word{i}": i for i in range(200_000)}))
    start = time.process_time()
    assert read_pickle(path).safe
    assert time.process_time() - start < 10  # a bound against quadratic behaviour, not a measurement


def test_a_source_reads_lines_and_pieces_across_its_buffer(tmp_path: Path) -> None:
    data = b"a" * 300_000 + b"\n" + b"b" * 300_000
    (tmp_path / "plain").write_bytes(data)
    (tmp_path / "packed").write_bytes(zlib.compress(data[:200_000]) + zlib.compress(data[200_000:]))
    with (tmp_path / "plain").open("rb") as plain, (tmp_path / "packed").open("rb") as packed:
        for source in (Source(plain, len(data)), Source(Unpacked(packed, "zlib", 1000))):
            assert source.read(5) == b"aaaaa"
            assert source.line(1 << 20) == b"a" * 299_995
            source.skip(299_990)
            assert source.position == len(data) - 10
            assert source.read(10) == b"b" * 10
            assert source.at_end()


@pytest.mark.parametrize("opcode", [b"B", b"X", b"T"])
def test_a_length_beyond_the_file_reserves_no_memory(tmp_path: Path, opcode: bytes) -> None:
    path = tmp_path / "length.pkl"
    path.write_bytes(b"\x80\x04" + opcode + struct.pack("<I", 0x7FFFFFF0) + b"abc")
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="truncated"):
        read_pickle(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
