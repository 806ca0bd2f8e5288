"""Array files that the real NumPy wrote, read without it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.envs import training_python

from intermodal.errors import InputError
from intermodal.golden.npy import Values, read_npy, read_npz

WRITE = """
import json, sys, numpy as np
folder = sys.argv[1]
arrays = {
    "f8": np.arange(6, dtype="f8").reshape(2, 3) / 7,
    "f4": np.arange(3, dtype="f4") / 3, "f2": np.arange(3, dtype="f2") / 3,
    "big": np.arange(4, dtype=">i4"), "i1": np.array([-1, 2], "i1"), "i8": np.array([[-(2**63), 2**63 - 1]]),
    "u8": np.array([2**64 - 1], "u8"), "u2": np.array([65535], "u2"), "bool": np.array([[True], [False]]),
    "text": np.array(["Århus", "", "a\\u20acb"]), "bytes": np.array([b"ab", b"c"]),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), "empty": np.zeros((0, 4)), "scalar": np.array(2.5),
    "nan": np.array([1.0, np.nan]),
}
expected = {}
for name, array in arrays.items():
    np.save(f"{folder}/{name}.npy", array)
    flat = array.ravel().tolist()
    if array.dtype.kind == "S":
        flat = [item.decode() for item in flat]
    expected[name] = {"shape": array.shape, "data": [None if item != item else item for item in flat]}
np.savez(f"{folder}/all.npz", **arrays)
np.savez_compressed(f"{folder}/packed.npz", **arrays)
np.save(f"{folder}/objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
np.save(f"{folder}/dates.npy", np.array(["2026-01-01"], dtype="M8[D]"))
np.save(f"{folder}/fields.npy", np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]))
np.save(f"{folder}/inf.npy", np.array([np.inf]))
json.dump(expected, sys.stdout)
"""
DATATYPES = {
    "f8": "FP64", "f4": "FP32", "f2": "FP16", "big": "INT32", "i1": "INT8", "i8": "INT64", "u8": "UINT64",
    "u2": "UINT16",
    "bool": "BOOL", "text": "BYTES", "bytes": "BYTES", "fortran": "FP64", "empty": "FP64", "scalar": "FP64",
    "nan": "FP64",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("npy")
    python = training_python("numpy==2.4.6")
    done = subprocess.run([python, "-I", "-c", WRITE, str(folder)], check=True, capture_output=True, text=True)
    return folder, json.loads(done.stdout)


@pytest.mark.network
@pytest.mark.parametrize("name", DATATYPES)
def test_every_kind(name: str, written: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = written
    want = Values(DATATYPES[name], tuple(expected[name]["shape"]), expected[name]["data"])
    assert read_npy((folder / f"{name}.npy").read_bytes(), name) == want
    for archive in ("all.npz", "packed.npz"):
        assert read_npz(folder / archive, archive)[name] == want


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "word"), [("objects", "unpickling"), ("dates", "dtype"), ("fields", "structured"), ("inf", "JSON")]
)
def test_refused_kinds(name: str, word: str, written: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(InputError) as caught:
        read_npy((written[0] / f"{name}.npy").read_bytes(), name)
    assert word in str(caught.value)


@pytest.mark.network
def test_truncated_and_damaged(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    whole = (written[0] / "f8.npy").read_bytes()
    for length in (0, 5, 9, 20, len(whole) - 1):
        with pytest.raises(InputError, match="cannot read x"):
            read_npy(whole[:length], "x")
    with pytest.raises(InputError, match="cannot read x"):
        read_npy(whole + b"more", "x")
    archive = bytearray((written[0] / "packed.npz").read_bytes())
    archive[60] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(archive)
    with pytest.raises(InputError):
        read_npz(tmp_path / "x.npz", "x.npz")
    (tmp_path / "y.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"cannot read y\.npz"):
        read_npz(tmp_path / "y.npz", "y.npz")


def test_a_header_cannot_ask_for_more_than_there_is() -> None:
    for shape in ("(10**12,)", "(-1,)", "(1e9,)", "(2**62, 2**62)", "(1073741824, 1024)"):
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        with pytest.raises(InputError):
            read_npy(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header, "x")
