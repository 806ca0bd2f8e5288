"""ONNX files: a real one from a wheel, and small ones written by hand field by field."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.envs import CACHE
from support.onnx_file import field

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect import ModelCard

Inspect = Callable[..., ModelCard]


def tensor_info(name: str, element: int, *dims: int | str) -> bytes:
    shape = b"".join(field(1, field(1, d) if isinstance(d, int) else field(2, d)) for d in dims)
    return field(1, name) + field(2, field(1, field(1, element) + field(2, shape)))


def model(*graph: bytes, extra: bytes = b"") -> bytes:
    return field(1, 8) + field(2, "by hand") + field(7, b"".join(graph)) + field(8, field(2, 17)) + extra


def external(location: str) -> bytes:
    return field(5, field(8, "W") + field(14, 1) + field(13, field(1, "location") + field(2, location)))


X, Y = field(11, tensor_info("x", 1, "batch", 4)), field(12, tensor_info("y", 7, -1 & 0x7F, 3))
WEIGHT = field(11, tensor_info("W", 1, 4, 3)) + field(5, field(8, "W") + field(9, b"\0" * 48))
SEQUENCE = field(12, field(1, "proba") + field(2, field(4, b"")))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(data: bytes, name: str = "model.onnx") -> Path:
        path = tmp_path / "m" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return put


def test_the_graphs_own_names_and_types(card: Inspect, write: Callable[[bytes], Path]) -> None:
    found = card(write(model(X, WEIGHT, Y)))
    assert (found.format, found.backend, found.loader, found.call) == ("onnx", "onnx", "onnx", "named")
    assert [(t.name, t.datatype, t.shape) for t in found.signature.inputs] == [("x", "FP32", (-1, 4))]
    assert [(t.name, t.datatype) for t in found.signature.outputs] == [("y", "INT64")]
    assert found.requires == ("numpy", "onnxruntime")
    assert found.findings[0].message == "IR version 8, operators ai.onnx 17, written by by hand"
    assert found.entry == "model.onnx"


def test_a_real_model(card: Inspect) -> None:
    folder = CACHE / "basic-pitch"
    path = folder / "nmp.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "basic-pitch==0.4.0"]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            path.write_bytes(wheel.read("basic_pitch/saved_models/icassp_2022/nmp.onnx"))
    found = card(path)
    assert [(t.datatype, t.shape) for t in found.signature.inputs] == [("FP32", (-1, 43844, 1))]
    assert sorted(t.shape for t in found.signature.outputs) == [(-1, 172, 88), (-1, 172, 88), (-1, 172, 264)]
    assert "tf2onnx" in found.findings[0].message
    assert found.safe


def test_external_data_beside_the_model_belongs_to_it(card: Inspect, write: Callable[..., Path]) -> None:
    path = write(model(X, external("weights.bin"), Y))
    with pytest.raises(ArtifactError, match="incomplete") as caught:
        card(path)
    assert "weights.bin" in caught.value.found[0]
    write(b"\0" * 48, "weights.bin")
    for artifact in (path, path.parent):
        found = card(artifact)
        assert [row.path for row in found.files] == ["model.onnx", "weights.bin"]
        assert (found.safe, found.entry) == (True, "model.onnx")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../x", ""])
def test_external_data_outside_the_folder_is_refused(
    card: Inspect, write: Callable[[bytes], Path], location: str
) -> None:
    found = card(write(model(X, external(location), Y)))
    assert not found.safe
    assert "external-data-outside" in [f.id for f in found.findings]


def test_a_link_that_leads_out_is_refused(card: Inspect, write: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = write(model(X, external("weights.bin"), Y))
    (tmp_path / "secret").write_bytes(b"s")
    (path.parent / "weights.bin").symlink_to(tmp_path / "secret")
    assert not card(path).safe
    with pytest.raises(ArtifactError, match="leads out"):
        card(path.parent)


def test_operators_that_onnxruntime_does_not_bring(card: Inspect, write: Callable[[bytes], Path]) -> None:
    node = field(1, field(4, "Magic") + field(7, "com.example"))
    inside = field(1, field(4, "If") + field(5, field(6, field(1, field(7, "com.deep")))))
    found = card(write(model(X, node, inside, Y)))
    assert [f.message.split(",")[0] for f in found.findings if f.id == "custom-operators"] == [
        "operators of com.deep",
        "operators of com.example",
    ]
    own = field(25, field(1, "Magic") + field(10, "com.example"))
    assert "custom-operators" not in [f.id for f in card(write(model(X, node, Y, extra=own))).findings]


def test_outputs_and_inputs_that_are_no_tensors(card: Inspect, write: Callable[[bytes], Path]) -> None:
    found = card(write(model(X, Y, SEQUENCE)))
    assert [t.name for t in found.signature.outputs] == ["y"]
    assert "zipmap" in next(f.next for f in found.findings if f.id == "unserved-output")
    with pytest.raises(ArtifactError, match="cannot be served"):
        card(write(model(field(11, field(1, "s") + field(2, field(4, b""))), Y)))


def test_truncated_and_damaged_files(card: Inspect, write: Callable[[bytes], Path]) -> None:
    whole = model(X, WEIGHT, Y)
    with pytest.raises(ArtifactError, match="truncated"):
        card(write(whole[:-9]))
    with pytest.raises(ArtifactError, match="damaged"):
        card(write(whole[:11] + b"\x07" + whole[12:]))
    with pytest.raises(ArtifactError, match="no ONNX graph"):
        card(write(field(1, 8) + field(2, "x")))
