"""The server as it lies in an image: a folder beside its packages, an interpreter with -I -S, nothing else."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.serving import CODE_DIR, FRONT_SITE, echo_root, serve

PACKAGES = ("httptools", "uvloop", "msgspec", "orjson", "typing_extensions.py")


def image(root: Path) -> Path:
    """/opt/intermodal of an image, below `root`."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = root / "opt/intermodal/lib" / version / "site-packages"
    site.mkdir(parents=True)
    for name in PACKAGES:
        source = FRONT_SITE / name
        if source.is_dir():
            shutil.copytree(source, site / name)
        else:
            shutil.copy(source, site / name)
    return Path(shutil.copytree(CODE_DIR, root / "opt/intermodal/intermodal_server"))


def test_runs_from_its_folder_with_only_the_packages_beside_it(tmp_path: Path) -> None:
    root = echo_root(tmp_path / "root")
    code = image(root)
    with serve(root, code=code, front_site="", worker_python="") as server:
        assert server.infer([2]).json["outputs"][0]["data"] == [4.0]


def test_starts_through_an_explicit_loader(tmp_path: Path) -> None:
    """As in a root that cannot be entered: every process goes through the loader, the venv's packages are added."""
    root = echo_root(tmp_path / "root")
    code = image(root)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = root / "opt/venv/lib" / version / "site-packages"
    site.mkdir(parents=True)
    (site / "only_here.py").write_text("FACTOR = 3\n")
    (root / "app" / "echo.py").write_text(
        "import only_here\nclass Model:\n    def predict(self, x):\n"
        "        return {'y': [v * only_here.FACTOR for v in x]}\n"
    )
    loader = _loader()
    python = json.dumps([*loader, os.path.realpath(sys.executable)])
    with serve(root, code=code, front_site="", worker_python="", python=python) as server:
        assert server.infer([2]).json["outputs"][0]["data"] == [6.0]
        command = Path(f"/proc/{server.children('worker')[0]}/cmdline").read_bytes().split(b"\0")
        assert command[: len(loader)] == [part.encode() for part in loader]


def _loader() -> list[str]:
    """The dynamic loader of this interpreter, as a user of an explicit loader names it."""
    maps = Path("/proc/self/maps").read_text().split()
    found = [entry for entry in maps if Path(entry).name.startswith("ld-linux")]
    if not found:
        pytest.fail("this interpreter has no glibc loader; the fallback of the sandbox needs one")
    return [found[0]]


def test_nothing_beside_the_folder_is_importable(tmp_path: Path) -> None:
    code = Path(shutil.copytree(CODE_DIR, tmp_path / "site/intermodal_server"))
    (tmp_path / "site" / "stranger.py").write_text("")
    (code / "probe.py").write_text(
        "import sys\ndef run(arguments):\n"
        "    for name in ('stranger', 'contract', 'log'):\n"
        "        try:\n            __import__(name)\n        except ImportError:\n            continue\n"
        "        return 1\n    return 0\n"
    )
    assert subprocess.run([sys.executable, "-I", "-S", str(code), "health"]).returncode == 0


def test_unknown_role_is_said() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(CODE_DIR), "nurse"], capture_output=True)
    assert done.returncode == 2 and b"'nurse'" in done.stderr


@pytest.mark.parametrize("path", sorted(CODE_DIR.rglob("*.py")), ids=lambda path: str(path.relative_to(CODE_DIR)))
def test_every_file_is_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))


STANDARD_ONLY = [path for path in sorted(CODE_DIR.rglob("*.py")) if "front" not in path.relative_to(CODE_DIR).parts]


@pytest.mark.parametrize("path", STANDARD_ONLY, ids=lambda path: str(path.relative_to(CODE_DIR)))
def test_outside_the_front_only_the_standard_library_is_imported_at_the_top(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            assert not names[0].startswith("intermodal_server.front"), "the model's side never sees the front"
        for name in names:
            top = name.partition(".")[0]
            assert top == "intermodal_server" or top in sys.stdlib_module_names, name
