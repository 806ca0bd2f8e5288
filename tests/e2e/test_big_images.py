"""Acceptance 3: images of PyTorch on a CPU and of XGBoost: no CUDA inside, golden predictions, under 260 MB compressed.

`-m big` trains both again (it installs PyTorch and XGBoost with NCCL, about 1.5 GB).
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.cli import intermodal
from support.envs import CHECKOUT, training_python

pytestmark = [pytest.mark.network, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.xdist_group("big-images")]
EXAMPLES = ("torch-cpu", "xgboost")
MAX_COMPRESSED_BYTES = 260_000_000
MAX_EXAMPLE_BYTES = 100_000
# Distributions of CUDA, by their dist-info folders, and its libraries, by their file names wherever they lie.
CUDA_DISTRIBUTION = re.compile(r"/site-packages/(nvidia_|nvidia-|triton-|cuda_|cuda-)[^/]*\.dist-info/")
CUDA_LIBRARY = re.compile(r"/lib(nccl|cudart|cublas|cublasLt|cudnn|cufft|curand|cusparse|cusolver|nvrtc)[-_.\w]*\.so")


def copied(name: str, folder: Path) -> Path:
    """An own copy of an example, without a lock."""
    target = folder / name
    shutil.copytree(CHECKOUT / "examples" / name, target, ignore=shutil.ignore_patterns("pylock.*", "__pycache__"))
    return target


def locked(folder: Path) -> dict[str, str]:
    """Version by name of the model's packages in the project's lock."""
    document = tomllib.loads((folder / "pylock.intermodal.toml").read_text())
    return {package["name"]: package["version"] for package in document["packages"]}


def paths_of(image: dict[str, Any], home: Path) -> set[str]:
    """Every path in every layer of an image, as the store has them."""
    found: set[str] = set()
    for layer in image["layers"]:
        algorithm, _, name = layer["digest"].partition(":")
        (blob,) = (home / "data").glob(f"**/blobs/{algorithm}/{name}")
        assert blob.stat().st_size == layer["size_bytes"]
        with gzip.open(blob) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
            found.update(f"/{member.name}" for member in archive)
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_image_is_small_and_predicts_as_trained(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    shipped = intermodal("ship", folder, "--json", home=tmp_path)
    assert shipped.code == 0, shipped.err
    image, report = shipped.json["image"], shipped.json["check"]
    assert report["passed"] is True
    assert (report["golden"]["cases"], report["golden"]["recorded_in"]) == (17, "training")
    assert sum(layer["size_bytes"] for layer in image["layers"]) <= image["compressed_bytes"] < MAX_COMPRESSED_BYTES
    assert image["pruned_bytes"] > 10_000_000

    packages = locked(folder)
    assert packages[{"torch-cpu": "torch"}.get(name, name)] == {"torch-cpu": "2.13.0+cpu", "xgboost": "3.2.0"}[name]
    assert not [package for package in packages if package.startswith(("nvidia", "cuda", "triton"))]
    paths = paths_of(image, tmp_path)
    assert any(path.endswith(("/libtorch_cpu.so", "/libxgboost.so")) for path in paths)
    assert sorted(path for path in paths if CUDA_DISTRIBUTION.search(path) or CUDA_LIBRARY.search(path)) == []


@pytest.mark.parametrize("requirements", [[], ["torch"], ["torch>=2.6"]], ids=["none", "any", "range"])
def test_whatever_the_index_has_as_newest_the_cpu_build_is_locked(requirements: list[str], tmp_path: Path) -> None:
    folder = copied("torch-cpu", tmp_path)
    settings = (folder / "intermodal.toml").read_text().partition("[environment]")[0]
    (folder / "intermodal.toml").write_text(f"{settings}[environment]\nrequirements = {json.dumps(requirements)}\n")
    made = intermodal("lock", folder, home=tmp_path)
    assert made.code == 0, made.err
    packages = locked(folder)
    assert packages["torch"].endswith("+cpu")
    assert not [package for package in packages if package.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.parametrize("name", EXAMPLES)
def test_small_enough_to_commit(name: str) -> None:
    listed = subprocess.run(
        ["git", "ls-files", f"examples/{name}"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {Path(path).name for path in listed} >= {"README.md", "golden.json", "predictor.py", "train.py"}
    assert sum((CHECKOUT / path).stat().st_size for path in listed) < MAX_EXAMPLE_BYTES


@pytest.mark.big
@pytest.mark.parametrize("name", EXAMPLES)
def test_trained_again_it_answers_alike(name: str, tmp_path: Path) -> None:
    """The script makes model and golden cases; an optimizer may end elsewhere in the last digits on another CPU."""
    folder = copied(name, tmp_path)
    committed = json.loads((folder / "golden.json").read_text())
    (folder / "golden.json").unlink()
    (artifact,) = [path for path in folder.iterdir() if path.suffix in (".pt", ".ubj")]
    artifact.unlink()
    requirements = tomllib.loads((folder / "intermodal.toml").read_text())["environment"]["requirements"]
    subprocess.run([training_python(*requirements), "-B", "train.py"], cwd=folder, check=True, capture_output=True)
    assert artifact.stat().st_size > 1000
    again = json.loads((folder / "golden.json").read_text())
    assert again["recorded_in"] == "training"
    assert again["environment"]["distributions"] == committed["environment"]["distributions"]
    for new, old in zip(again["cases"], committed["cases"], strict=True):
        assert new["request"] == old["request"]
        for mine, theirs in zip(new["response"]["outputs"], old["response"]["outputs"], strict=True):
            assert mine["data"] == pytest.approx(theirs["data"], rel=1e-2, abs=1e-3)
