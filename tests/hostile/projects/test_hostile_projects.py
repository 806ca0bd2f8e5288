"""Project files, locks and golden cases that want more than they should: told in one error, with nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.machine import machine

from intermodal.errors import InputError, IntermodalError
from intermodal.golden.cases import read_golden
from intermodal.project.load import load
from intermodal.project.toml_file import MAX_BYTES
from intermodal.rooms.lock.lockfile import read_lock

DEEP = 50_000
PROJECT = '[model]\nname = "demo"\nartifact = "model.joblib"\n'


def project(text: str | bytes) -> Callable[[Path], object]:
    def attempt(root: Path) -> object:
        data = text if isinstance(text, bytes) else text.encode()
        (root / "intermodal.toml").write_bytes(data)
        return load(root, machine(root.parent))

    return attempt


def requirements(name: str, text: str) -> Callable[[Path], object]:
    def attempt(root: Path) -> object:
        (root / name).write_text(text)
        return project(f'{PROJECT}[environment]\nrequirements = "{name}"\n')(root)

    return attempt


def lock(text: str) -> Callable[[Path], object]:
    def attempt(root: Path) -> object:
        (root / "pylock.intermodal.toml").write_text(text)
        return read_lock(root / "pylock.intermodal.toml")

    return attempt


def golden(text: str) -> Callable[[Path], object]:
    def attempt(root: Path) -> object:
        (root / "golden.json").write_text(text)
        return read_golden(root / "golden.json")

    return attempt


ARRAYS = "x = " + "[" * DEEP + "]" * DEEP
TABLES = "x = " + "{a=" * DEEP + "1" + "}" * DEEP
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "project nested in arrays": (project(ARRAYS), "nested too deep"),
    "project nested in tables": (project(TABLES), "nested too deep"),
    "project nested in dots": (project("[model]\n" + ".".join("a" * 20_000) + " = 1\n"), "unknown key"),
    "project too large": (project(b"#" * (MAX_BYTES + 1)), "too large"),
    "project with a number of thousands of digits": (project("x = " + "1" * 5000), "cannot read"),
    "project that is not UTF-8": (project(b"[model]\nname = '\xff'\n"), "cannot read"),
    "project with a zero byte": (project(b"[model]\nname = '\0'\n"), "cannot read"),
    "project with an unknown key": (project(f"{PROJECT}artefact = 'x'\n"), "unknown key"),
    "project with an unknown table": (project(f"{PROJECT}[enviroment]\n"), "unknown"),
    "artifact outside": (project(PROJECT.replace("model.joblib", "../secret")), "leaves the project"),
    "artifact absolute": (project(PROJECT.replace("model.joblib", "/etc/passwd")), "leaves the project"),
    "golden outside": (project(f'{PROJECT}golden = "../golden.json"\n'), "leaves the project"),
    "golden through a link": (project(f'{PROJECT}golden = "link/secret"\n'), "leaves the project"),
    "requirements outside": (
        project(f'{PROJECT}[environment]\nrequirements = "../secret.txt"\n'),
        "leaves the project",
    ),
    "requirements that include a file outside": (
        requirements("requirements.txt", "-r ../secret.txt\n"),
        "leaves the project",
    ),
    "requirements that include themselves": (
        requirements("requirements.txt", "-r requirements.txt\n"),
        "includes itself",
    ),
    "requirements that choose an index": (
        requirements("requirements.txt", "--index-url https://evil.example/simple\nnumpy\n"),
        "cannot choose the package index",
    ),
    "requirements by bare address": (
        requirements("requirements.txt", "https://evil.example/demo.whl\n"),
        "address is not a package by name",
    ),
    "requirements from a repository": (
        requirements("requirements.txt", "git+https://evil.example/demo\n"),
        "address is not a package by name",
    ),
    "requirements from a folder": (requirements("requirements.txt", "../secret\n"), "path is not a package by name"),
    "requirements that install in place": (requirements("requirements.txt", "-e .\n"), "editable"),
    "requirements with variables": (requirements("requirements.txt", "demo==${HOME}\n"), "variables"),
    "pyproject nested too deep": (requirements("pyproject.toml", ARRAYS), "nested too deep"),
    "pylock nested too deep": (requirements("pylock.toml", TABLES), "nested too deep"),
    "uv.lock nested too deep": (requirements("uv.lock", ARRAYS), "nested too deep"),
    "conda file full of aliases": (
        requirements("environment.yml", "a: &a [x, x]\n" + "".join(f"b{i}: &b [*a, *a]\n" for i in range(99))),
        "not built yet",
    ),
    "lock nested too deep": (lock(ARRAYS), "not a lock we can use"),
    "lock with unknown words": (lock("lock-version = '1.0'\n"), "not a lock we can use"),
    "golden nested in arrays": (golden("[" * DEEP), "not a file of golden cases"),
    "golden nested in objects": (golden('{"a":' * DEEP), "not a file of golden cases"),
    "golden with NaN": (golden('{"cases": NaN}'), "not a file of golden cases|another format"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_refused_with_nothing_written(case: str, tmp_path: Path) -> None:
    attempt, message = CASES[case]
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "secret.txt").write_text("hunter2")
    (root / "model.joblib").write_bytes(b"\x80\x04N.")
    (root / "link").symlink_to(tmp_path)
    before = inventory(tmp_path)
    with pytest.raises(IntermodalError, match=message) as caught:
        attempt(root)
    assert isinstance(caught.value, InputError)
    assert "hunter2" not in str(caught.value)
    assert inventory(tmp_path) - before <= {"intermodal.toml", "pylock.intermodal.toml", "golden.json", *GIVEN}


GIVEN = ("requirements.txt", "pyproject.toml", "pylock.toml", "uv.lock", "environment.yml")


def inventory(folder: Path) -> set[str]:
    return {name for _, folders, files in os.walk(folder) for name in (*folders, *files)}
