"""Real models, trained once in real environments and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.envs import CACHE, training_python
from support.hosts import empty_host

from intermodal.project.schema import Model, ProjectFile
from intermodal.project.value import Project
from intermodal.rooms.inspect import ModelCard, inspect

SCRIPT = Path(__file__).with_name("train_models.py")
OLD = ("scikit-learn==1.3.2", "numpy==1.26.4", "pandas==2.2.3", "cloudpickle==3.1.1", "skops==0.11.0")
NEW = ("scikit-learn==1.9.1", "pandas==2.3.3", "cloudpickle==3.1.1", "skops==0.14.0")


def trained(*requirements: str) -> Path:
    """The folder with every model that SCRIPT trains under `requirements`."""
    python = training_python(*requirements)
    key = hashlib.sha256(SCRIPT.read_bytes() + str(python).encode()).hexdigest()[:16]
    folder = CACHE / "inspect-models" / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            subprocess.run([python, SCRIPT, folder], check=True)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session", params=[OLD, NEW], ids=["sklearn-1.3-numpy-1", "sklearn-1.9-numpy-2"])
def models(request: pytest.FixtureRequest) -> Path:
    """Models of one training stack, then of the other."""
    return trained(*request.param)


@pytest.fixture(scope="session")
def new_models() -> Path:
    """Models of the newer training stack."""
    return trained(*NEW)


@pytest.fixture
def card(tmp_path: Path) -> Callable[..., ModelCard]:
    """`inspect` on a path, as the command line would call it."""

    def make(
        artifact: Path | None,
        *,
        trust: tuple[str, ...] = (),
        predictor: str | None = None,
        golden: Path | None = None,
        root: Path | None = None,
    ) -> ModelCard:
        model = Model(predictor=predictor, trust=trust)
        project = Project(
            root=root or (artifact.parent if artifact else tmp_path),
            file=None,
            name="model",
            version="latest",
            artifact=artifact,
            golden=golden,
            lock_path=tmp_path / "pylock.intermodal.toml",
            requirements=(),
            platforms=("linux/amd64",),
            model=model,
            settings=ProjectFile(model=model),
        )
        return inspect(project, host=empty_host(tmp_path / "host"))

    return make
