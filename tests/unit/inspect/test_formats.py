"""Detection by content, predictors by AST, skops archives, and what is no model at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from intermodal.errors import ArtifactError
from intermodal.golden.cases import GoldenCase, GoldenFile
from intermodal.rooms.inspect import ModelCard
from intermodal.rooms.inspect.detect import looks_like

Inspect = Callable[..., ModelCard]
PREDICTOR = """
import numpy as np
import sklearn.linear_model
from helpers import scale
raise SystemExit("executed")

class Digits:
    def load(self, folder): ...
    def predict(self, X, names: list[str], *, weight: "np.typing.NDArray[np.float32]"): ...

class Lazy:
    def predict(self, **inputs): ...
"""


def test_importing_the_room_is_cheap() -> None:
    heavy = "[m for m in sys.modules if 'inspect.formats' in m or 'inspect.pickles' in m]"
    code = f"import sys, intermodal.rooms.inspect; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("file", ["digits.joblib", "digits.skops", "digits.4.pkl", "digits.joblib.xz"])
def test_content_decides_not_the_name(card: Inspect, new_models: Path, tmp_path: Path, file: str) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(new_models / file, path)
    found = card(path)
    assert found.format == {"digits.4.pkl": "pickle", "digits.skops": "skops"}.get(file, "joblib")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b'{"a": 1}', "JSON"),
        (b"hello world, this is no model\n", "text"),
        (b"(see the appendix)\n", "text"),
        ("ein Wörtchen".encode(), "text"),
        (b"\x89PNG\r\n", "PNG"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "bytes starting 00 01 02"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x04\x22\x4d\x18" + b"x" * 9, "lz4"),
    ],
)
def test_what_is_no_model_is_told_by_its_looks(card: Inspect, tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "thing.bin"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        card(path)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_and_ambiguous_artifacts(card: Inspect, new_models: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no file gone\.joblib"):
        card(tmp_path / "gone.joblib")
    with pytest.raises(ArtifactError, match="does not say which file"):
        card(new_models)
    folder = tmp_path / "one"
    folder.mkdir()
    with pytest.raises(ArtifactError, match="no file with content"):
        card(folder)
    shutil.copy(new_models / "knn.joblib", folder)
    (folder / "labels.txt").write_text("a\n")
    found = card(folder)
    assert (found.entry, [row.path for row in found.files]) == ("knn.joblib", ["knn.joblib", "labels.txt"])


@pytest.mark.parametrize("file", ["digits.joblib", "digits.joblib.gz", "digits.skops", "digits.4.pkl"])
def test_every_truncation_is_an_error(card: Inspect, new_models: Path, tmp_path: Path, file: str) -> None:
    data = (new_models / file).read_bytes()
    for keep in (1, len(data) // 3, len(data) - 1):
        path = tmp_path / file
        path.write_bytes(data[:keep])
        with pytest.raises(ArtifactError):
            card(path)


def test_a_predictor_is_read_not_run(card: Inspect, tmp_path: Path) -> None:
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    (tmp_path / "helpers.py").write_text("")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"w")
    found = card(tmp_path / "weights", predictor="predictor:Digits", root=tmp_path)
    assert (found.format, found.backend, found.call, found.framework) == ("predictor", "predictor", "named", "")
    assert [(t.name, t.datatype, t.shape, t.assumed) for t in found.signature.inputs] == [
        ("X", "FP64", (-1, -1), True),
        ("names", "BYTES", (-1,), False),
        ("weight", "FP64", (-1, -1), True),  # a string annotation says nothing without evaluating it
    ]
    assert found.imports == ("helpers.scale", "numpy", "sklearn.linear_model")
    assert found.requires == ("numpy", "scikit-learn")
    assert [row.path for row in found.files] == ["w.bin"]


def test_golden_cases_give_a_predictor_its_types(card: Inspect, tmp_path: Path) -> None:
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    request = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8], "data": []}]}
    response = {"outputs": [{"name": "digit", "datatype": "INT64", "shape": [1], "data": [3]}]}
    golden = tmp_path / "golden.json"
    golden.write_bytes(GoldenFile("locked", {"python": "3.11.2"}, (GoldenCase("c", request, response),)).to_bytes())
    found = card(None, predictor="predictor:Lazy", golden=golden, root=tmp_path)
    assert [(t.name, t.datatype, t.shape) for t in found.signature.inputs] == [("image", "UINT8", (-1, 8, 8))]
    assert [(t.name, t.datatype, t.shape) for t in found.signature.outputs] == [("digit", "INT64", (-1,))]
    assert found.python == ""  # recorded in the locked environment: proves nothing about training
    assert found.files == ()


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        (PREDICTOR, "predictor:Other", "no class Other"),
        (PREDICTOR, "elsewhere:Digits", "no module elsewhere"),
        ("class A:\n def load(self, f): ...\n", "predictor:A", "no method predict"),
        ("class A:\n def predict(self, *rows): ...\n", "predictor:A", "by name"),
        ("class A:\n async def predict(self, X): ...\n", "predictor:A", "async"),
        ("class A(:\n", "predictor:A", "cannot be read as Python"),
    ],
)
def test_predictors_that_cannot_work(card: Inspect, tmp_path: Path, source: str, name: str, said: str) -> None:
    (tmp_path / "predictor.py").write_text(source)
    with pytest.raises(ArtifactError, match=said):
        card(None, predictor=name, root=tmp_path)


def rewritten(source: Path, target: Path, change: Callable[[str], str], extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member.filename, change(data.decode()) if member.filename == "schema.json" else data)
        for path, data in (extra or {}).items():
            new.writestr(path, data)
    return target


def test_skops_types_are_judged_by_name(card: Inspect, new_models: Path, tmp_path: Path) -> None:
    path = rewritten(
        new_models / "digits.skops",
        tmp_path / "model.skops",
        lambda text: text.replace('"StandardScaler"', '"Scaler"').replace(
            "sklearn.preprocessing._data", "mylib.scaling"
        ),
    )
    found = card(path)
    assert not found.safe
    assert "mylib.scaling.Scaler" in found.findings[0].message
    assert "mylib.scaling.Scaler" in found.imports
    assert card(path, trust=("mylib.scaling.Scaler",)).safe


@pytest.mark.parametrize(
    ("change", "extra", "identity"),
    [
        (lambda t: t.replace('"ObjectNode"', '"MethodNode"', 1), {}, "unknown-node"),
        (str, {"../../evil.npy": b"x"}, "unsafe-path"),
        (str, {"zeros.npy": b"\0" * (64 << 20)}, None),
        (lambda t: t.replace('"TreeNode"', '"OperatorFuncNode"', 1), {}, "unknown-node"),
    ],
)
def test_hostile_skops_archives(
    card: Inspect,
    new_models: Path,
    tmp_path: Path,
    change: Callable[[str], str],
    extra: dict[str, bytes],
    identity: str,
) -> None:
    path = rewritten(new_models / "digits.skops", tmp_path / "model.skops", change, extra)
    found = card(path)
    assert (identity is None) == found.safe
    assert identity is None or identity in [f.id for f in found.findings]


@pytest.mark.parametrize("schema", ["", "[]", "{}", '{"__class__": 1}', json.dumps({"a": 1}), "[" * 100_000])
def test_broken_skops_schemas_are_errors(card: Inspect, tmp_path: Path, schema: str) -> None:
    path = tmp_path / "model.skops"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", schema)
    with pytest.raises(ArtifactError, match=r"schema\.json"):
        card(path)


def test_looks_like_reads_bytes_cut_inside_a_letter() -> None:
    assert looks_like("Text mit ü"[:-1].encode() + "ü".encode()[:1])[0] == "text"
