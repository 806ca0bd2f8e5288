from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.envs import CHECKOUT

import intermodal_server
from intermodal.rooms.lock.servertree import server_tree, tree_of


def copy(folder: Path) -> Path:
    target = folder / "intermodal_server"
    shutil.copytree(Path(intermodal_server.__file__).parent, target)
    return target


def test_sorted_sources_and_nothing_else() -> None:
    _, files = server_tree()
    names = [name for name, _ in files]
    assert names == sorted(names)
    assert "intermodal_server/__init__.py" in names
    assert all(name.endswith(".py") and "__pycache__" not in name for name in names)


def test_byte_code_lint_settings_and_times_do_not_count(tmp_path: Path) -> None:
    tree = copy(tmp_path)
    for folder in tree.rglob("__pycache__"):
        shutil.rmtree(folder)
    (tree / "ruff.toml").unlink(missing_ok=True)
    (tree / "py.typed").touch()
    (tree / "__init__.py").touch()
    assert tree_of(tree)[0] == server_tree()[0]


def test_content_and_names_count(tmp_path: Path) -> None:
    tree = copy(tmp_path)
    (tree / "more.py").touch()
    with_more, _ = tree_of(tree)
    (tree / "more.py").rename(tree / "other.py")
    with_other, _ = tree_of(tree)
    (tree / "other.py").write_text("x = 1\n")
    assert len({server_tree()[0], with_more, with_other, tree_of(tree)[0]}) == 4


@pytest.mark.slow
@pytest.mark.network
def test_a_wheel_has_the_same_tree(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(CHECKOUT),
    ]
    subprocess.run(command, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    assert tree_of(tmp_path / "installed" / "intermodal_server")[0] == server_tree()[0]
    keyring = tmp_path / "installed" / "intermodal/rooms/lock/debian/keyring.pgp"
    assert keyring.stat().st_size > 10_000, "the archive keyring must be shipped"
