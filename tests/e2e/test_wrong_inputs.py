"""Acceptance 5: whatever is wrong, the message says what was tried, what was found and what to do next."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Result, intermodal
from support.envs import CHECKOUT

DIGITS = CHECKOUT / "examples" / "digits"


def assert_told(result: Result, code: int, *words: str) -> None:
    """Every error has its form: `error:`, evidence, a way on; no traceback, nothing on stdout."""
    assert result.code == code, f"exit {result.code}\n{result.out}\n{result.err}"
    assert result.out == ""
    error = result.err[result.err.index("error: ") :]
    assert re.search(r"^  found   \S", error, re.MULTILINE), error
    assert re.search(r"^  next    \S", error, re.MULTILINE), error
    assert "Traceback" not in result.err
    for word in words:
        assert word in error, f"{word!r} is missing in:\n{error}"


def predictor(folder: Path, requirements: str = "[]", more: str = "") -> Path:
    """A project without a model file, with some requirements."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictor.py").write_text(
        "class P:\n    def load(self, folder):\n        pass\n\n    def predict(self, x):\n        return {'y': x}\n"
    )
    (folder / "intermodal.toml").write_text(
        f'[model]\nname = "p"\npredictor = "predictor:P"\n{more}\n[environment]\nrequirements = {requirements}\n'
    )
    return folder


def test_missing_file(tmp_path: Path) -> None:
    assert_told(intermodal("ship", "nowhere.joblib", home=tmp_path), 2, "nowhere.joblib")


def test_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2000))
    assert_told(intermodal("ship", "model.joblib", home=tmp_path), 2, "model.joblib")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").touch()
    assert_told(intermodal("inspect", "model.pkl", home=tmp_path), 2, "model.pkl", "empty")


def test_truncated_pickle(tmp_path: Path) -> None:
    whole = (DIGITS / "model.joblib").read_bytes()
    (tmp_path / "model.joblib").write_bytes(whole[: len(whole) // 2])
    assert_told(intermodal("ship", "model.joblib", home=tmp_path), 2, "model.joblib")


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_hostile_pickle(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Hostile()))
    told = intermodal("ship", "model.pkl", home=tmp_path)
    assert_told(told, 1, "system", "touch owned", "trust")
    assert not (tmp_path / "owned").exists()

    card = intermodal("inspect", "model.pkl", "--json", home=tmp_path)
    assert card.code == 1
    assert card.json["safe"] is False
    assert any("system" in finding["message"] for finding in card.json["findings"])
    assert not (tmp_path / "owned").exists()


def test_unknown_key(tmp_path: Path) -> None:
    folder = predictor(tmp_path / "p")
    text = (folder / "intermodal.toml").read_text()
    (folder / "intermodal.toml").write_text(text.replace("requirements", "requirement"))
    assert_told(intermodal("build", folder, home=tmp_path), 2, "requirement", "requirements", "environment")


@pytest.mark.network
def test_unsatisfiable_requirement(tmp_path: Path) -> None:
    folder = predictor(tmp_path / "p", '["numpy>=2", "numpy<2"]')
    assert_told(intermodal("lock", folder, home=tmp_path), 2, "numpy")


@pytest.mark.network
def test_version_that_does_not_exist(tmp_path: Path) -> None:
    folder = predictor(tmp_path / "p", '["numpy==99.1"]')
    assert_told(intermodal("lock", folder, home=tmp_path), 2, "numpy", "99.1")


@pytest.mark.network
def test_source_only_requirement(tmp_path: Path) -> None:
    source = tmp_path / "sdists" / "sourceonly-1.0"
    source.mkdir(parents=True)
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: sourceonly\nVersion: 1.0\n")
    (source / "setup.py").write_text("open('/tmp/ran', 'w'); from setuptools import setup; setup()\n")
    subprocess.run(["tar", "czf", "sourceonly-1.0.tar.gz", source.name], cwd=source.parent, check=True)
    shutil.rmtree(source)
    folder = predictor(tmp_path / "p", '["sourceonly==1.0"]')
    told = intermodal("lock", folder, home=tmp_path, env={"PIP_FIND_LINKS": str(source.parent)})
    assert_told(told, 2, "sourceonly", "wheel")


def test_index_unreachable(tmp_path: Path) -> None:
    folder = predictor(tmp_path / "p", '["numpy"]')
    with socket.socket() as nobody:  # bound, not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        url = f"http://user:hunter2@127.0.0.1:{nobody.getsockname()[1]}/simple"
        variables = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": url, "PIP_FIND_LINKS": "", "UV_HTTP_RETRIES": "0"}
        told = intermodal("lock", folder, home=tmp_path, cache=tmp_path / "cache", env=variables)
    assert_told(told, 3, "127.0.0.1")
    assert "hunter2" not in told.err, "a credential was printed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.network
def test_disk_full(tmp_path: Path, small_disk: Path) -> None:
    folder = predictor(tmp_path / "p")
    told = intermodal("build", folder, home=tmp_path, env={"XDG_DATA_HOME": str(small_disk)})
    assert_told(told, 3, "the disk is full")
    left = [path for path in small_disk.rglob("*") if path.is_file() and ".tmp" in path.name]
    assert not left, "a full disk left temporary files"


@pytest.mark.network
@pytest.mark.sandbox
def test_port_taken(tmp_path: Path) -> None:
    folder = predictor(tmp_path / "p")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as somebody:
        threading.Thread(target=somebody.serve_forever, daemon=True).start()
        port = str(somebody.server_port)
        assert_told(intermodal("run", folder, "--port", port, home=tmp_path), 3, port)
        somebody.shutdown()


def test_errors_are_one_json_document_too(tmp_path: Path) -> None:
    told = intermodal("inspect", "nowhere.joblib", "--json", home=tmp_path)
    assert told.code == 2
    document = json.loads(told.out)
    assert document["exit_code"] == 2
    assert "nowhere.joblib" in document["error"]
    assert document["next"]
