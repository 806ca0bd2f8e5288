"""Published wheels, laid out by us and by pip: the same files, the same bytes, the same executable bits."""

import fcntl
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from support.envs import CACHE

from intermodal.events import SILENT
from intermodal.oci.digest import Digest
from intermodal.rooms.build.wheels.groups import Group, LockedWheel
from intermodal.rooms.build.wheels.layers import write_group
from intermodal.rooms.build.wheels.prune import rules
from intermodal.rooms.build.wheels.scheme import Scheme

pytestmark = pytest.mark.network
SCHEME = Scheme("opt/venv", f"{sys.version_info[0]}.{sys.version_info[1]}")
WHEELS = [
    "numpy==2.4.6",
    "joblib==1.6.0",
    "threadpoolctl==3.8.0",
    "python-dateutil",
    "packaging",
    "uvicorn",
    "protobuf",
]


def pip(*arguments: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *arguments], check=True, env=environment, capture_output=True
    )


@pytest.fixture(scope="module")
def wheels() -> list[Path]:
    folder = CACHE / "wheels-real"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            pip("download", "--no-deps", "--only-binary=:all:", "-d", str(folder), *WHEELS)
            (folder / "done").touch()
    return sorted(folder.glob("*.whl"))


def group_of(*paths: Path) -> tuple[Group, dict[Digest, Path]]:
    locked = []
    files = {}
    for path in paths:
        digest, size = Digest.of_file(path)
        name, version = path.name.split("-")[:2]
        locked.append(LockedWheel(name.lower().replace("_", "-"), version, path.name, digest, size))
        files[digest] = path
    return Group(tuple(locked), single=len(locked) == 1), files


def our_tree(paths: list[Path], *, prune: bool) -> dict[str, tuple[bytes, bool]]:
    group, files = group_of(*paths)
    out = io.BytesIO()
    write_group(
        group, files, SCHEME, out, rules=lambda _: rules() if prune else None, compile_sources=None, events=SILENT
    )
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        return {
            m.name: (archive.extractfile(m).read(), bool(m.mode & 0o100))  # type: ignore[union-attr]
            for m in archive
            if m.isfile()
        }


def pip_tree(paths: list[Path], root: Path) -> dict[str, tuple[bytes, bool]]:
    pip(
        "install", "--no-deps", "--no-index", "--no-compile", "--no-warn-script-location", "--ignore-installed",
        "--root", str(root), "--prefix", "/opt/venv", *map(str, paths),
    )  # fmt: skip
    return {
        str(path.relative_to(root)): (path.read_bytes(), os.access(path, os.X_OK) and bool(path.stat().st_mode & 0o100))
        for path in root.rglob("*")
        if path.is_file()
    }


def test_every_wheel_is_laid_out_as_pip_does(wheels: list[Path], tmp_path: Path) -> None:
    ours = our_tree(wheels, prune=False)
    theirs = pip_tree(wheels, tmp_path)
    by_design = ("/INSTALLER", "/RECORD", "/REQUESTED", "/direct_url.json")
    assert {n for n in ours if not n.endswith(by_design)} == {n for n in theirs if not n.endswith(by_design)}
    scripts = {name for name in ours if name.startswith("opt/venv/bin/")}
    assert scripts >= {"opt/venv/bin/f2py", "opt/venv/bin/numpy-config", "opt/venv/bin/uvicorn"}
    for name, (data, executable) in ours.items():
        if name.endswith(by_design):
            continue
        assert executable == theirs[name][1], name
        if name not in scripts:
            assert data == theirs[name][0], name


def test_what_pruning_leaves_is_what_the_wheel_had(wheels: list[Path]) -> None:
    whole, pruned = our_tree(wheels, prune=False), our_tree(wheels, prune=True)
    assert set(pruned) < set(whole)
    gone = set(whole) - set(pruned)
    assert all(
        "/tests/" in n or "/test/" in n or n.endswith((".h", ".hpp", ".c", ".cpp", ".pxd", ".pyx", ".a")) for n in gone
    )
    assert any("/numpy/testing/" in name for name in pruned)
    assert all(pruned[name] == whole[name] for name in pruned if not name.endswith("/RECORD"))


def test_the_bytes_depend_on_the_wheels_alone(wheels: list[Path], tmp_path: Path) -> None:
    group, files = group_of(*wheels)
    outputs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        copies = {}
        for digest, path in files.items():
            copies[digest] = folder / f"{name}{path.name[:3]}"
            copies[digest].write_bytes(path.read_bytes())
            os.utime(copies[digest], (time.time() - 9999, 1))
        out = io.BytesIO()
        write_group(group, copies, SCHEME, out, rules=lambda _: rules(), compile_sources=None, events=SILENT)
        outputs.append(out.getvalue())
    assert outputs[0] == outputs[1]


def test_the_wheels_own_streams_are_in_the_layer(wheels: list[Path]) -> None:
    import zipfile

    (path,) = [p for p in wheels if p.name.startswith("numpy")]
    group, files = group_of(path)
    out = io.BytesIO()
    info, _ = write_group(group, files, SCHEME, out, rules=lambda _: None, compile_sources=None, events=SILENT)
    stored, archive_bytes = out.getvalue(), path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
        start = largest.header_offset + 30 + len(largest.filename)
    stream = archive_bytes[start : start + largest.compress_size]
    assert stream in stored
    assert info.size_bytes < path.stat().st_size * 1.01 and info.tar_bytes > 3 * info.size_bytes
