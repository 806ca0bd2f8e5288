"""Forty published wheels and an odd one, laid out by us and by pip: the same folders, files, bytes, modes, RECORD rows.

Ours are the layers of one environment as `build` groups and writes them, read back by Python's own tar reader; pip's
are what `pip install --no-deps --no-compile` lays down into a real environment of the same layout. What may differ:

1. INSTALLER names the installer. REQUESTED is a note of pip's command line and of no other installer.
2. Scripts begin with the interpreter of their own environment, and they are executable, as the specification advises;
   pip leaves them as they were archived.
3. A script made from an entry point is each installer's own text: it must import the same object and exit with what
   the same call returns.
4. pip gives itself one more script, named for the version of Python; entry_points.txt knows nothing of it.
5. RECORD lists the same files with the same hashes, but for those of rules 1 to 4, and scripts that an entry point
   replaced: pip lists what it left out.
6. Byte code that comes along in a wheel is left out: what an image holds was compiled from its sources.
7. What pruning leaves out lies in a folder of tests, is a header or a source of compiled modules, or is named here.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from support.cli import world_folder
from support.real_wheels import RealWheel, fetched, odd_wheel, pip, table

from intermodal.events import SILENT
from intermodal.rooms.build.wheels.groups import group
from intermodal.rooms.build.wheels.layers import shared_paths, write_group
from intermodal.rooms.build.wheels.prune import PruneRules, rules
from intermodal.rooms.build.wheels.scheme import Scheme

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("real-wheels")]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
SCHEME = Scheme("opt/venv", PYTHON)
OWN_NOTES = ("INSTALLER", "RECORD", "REQUESTED")
PIECE_BYTES = 1 << 20
PRUNED_SUFFIXES = {
    *(".h", ".hh", ".hpp", ".hxx", ".cuh", ".c", ".cc", ".cpp", ".cxx", ".f", ".f90"),
    *(".pyx", ".pxd", ".pxi", ".a", ".lib"),
}
PRUNED_PLACES = ("/include/", "/torch/bin/", "/torch/include/", "/torch/share/cmake/", "/torch/test/", "/joblib/test/")


@dataclass(frozen=True)
class File:
    """One file as it was laid down."""

    sha256: str
    executable: bool
    text: bytes  # of scripts and RECORDs


@dataclass(frozen=True, repr=False, eq=False)
class Tree:
    """Files and folders by path below the root, and what an environment calls its interpreter."""

    files: dict[str, File]
    folders: frozenset[str]
    interpreter: str


def read(stream: IO[bytes], name: str, *, executable: bool) -> File:
    if is_script(name) or is_note(name, "RECORD"):
        text = stream.read()
        return File(hashlib.sha256(text).hexdigest(), executable, text)
    digest = hashlib.sha256()
    while piece := stream.read(PIECE_BYTES):
        digest.update(piece)
    return File(digest.hexdigest(), executable, b"")


def exempt_from_pruning(name: str) -> PruneRules | None:
    return rules() if rules().applies_to(name) else None


def our_tree(wheels: list[RealWheel], *, prune: bool, folder: Path) -> Tree:
    """The environment as an image has it: layer over layer."""
    paths = {wheel.locked.digest: wheel.path for wheel in wheels}
    files: dict[str, File] = {}
    folders: set[str] = set()
    brought = []
    for each in group(wheel.locked for wheel in wheels):
        with tempfile.TemporaryFile(dir=folder) as out:
            chosen = exempt_from_pruning if prune else (lambda _: None)
            _, layer = write_group(each, paths, SCHEME, out, rules=chosen, compile_sources=None, events=SILENT)
            brought.append(layer)
            out.seek(0)
            with gzip.open(out) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
                for member in archive:
                    assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
                    if member.isdir():
                        assert member.mode == 0o755
                        folders.add(member.name)
                        continue
                    assert member.isreg() and member.mode in (0o644, 0o755), member.name
                    stream = archive.extractfile(member)
                    assert stream is not None
                    files[member.name] = read(stream, member.name, executable=member.mode == 0o755)
    assert shared_paths(brought, SILENT) == set(), "no two of these wheels share a file"
    return Tree(files, frozenset(folders), SCHEME.interpreter)


def pips_tree(wheels: list[RealWheel], root: Path) -> Tree:
    """A real environment below `root`, less what was in it before pip came."""
    venv = root / SCHEME.prefix
    command = [sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(venv)]
    subprocess.run(command, check=True, env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")})
    before = {path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    links = [part for wheel in wheels for part in ("--find-links", wheel.path.parent)]
    names = [f"{wheel.locked.name}=={wheel.locked.version}" for wheel in wheels]
    python = venv / "bin" / "python"
    choice = ("--no-deps", "--no-compile", "--no-index", "--no-warn-script-location", "--force-reinstall")
    pip("--python", python, "install", *choice, *dict.fromkeys(links), *names)
    files, folders = {}, set()
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink():
            folders.add(name)
        elif path not in before:
            with path.open("rb") as stream:
                mode = path.lstat().st_mode
                files[name] = read(stream, name, executable=bool(mode & 0o100))
    return Tree(files, frozenset(folders), str(python))


@dataclass(frozen=True, repr=False, eq=False)
class Trees:
    """One set of wheels, three times."""

    wheels: list[RealWheel]
    ours: Tree
    pips: Tree
    pruned: Tree


@pytest.fixture(scope="module", params=["odd", "small", "big"])
def trees(request: pytest.FixtureRequest) -> Iterator[Trees]:
    with world_folder() as folder:  # its path is short: pip writes another first line where it is long
        if request.param == "odd":
            wheels = [odd_wheel(folder)]
        else:
            wheels = fetched([row for row in table() if row.big == (request.param == "big")])
        yield Trees(
            wheels,
            our_tree(wheels, prune=False, folder=folder),
            pips_tree(wheels, folder / "pip"),
            our_tree(wheels, prune=True, folder=folder),
        )


def is_note(name: str, *names: str) -> bool:
    """Whether a path is one of these files of a dist-info folder (of its own, not of a vendored tree)."""
    folder, _, file = name.removeprefix(f"{SCHEME.site}/").rpartition("/")
    return file in names and folder.endswith(".dist-info") and "/" not in folder


def pips_own_script(name: str) -> bool:
    return name == f"{SCHEME.prefix}/bin/pip{PYTHON}"


def is_byte_code(name: str) -> bool:
    return "/__pycache__/" in name and name.endswith(".pyc")


def is_script(name: str) -> bool:
    return name.startswith(f"{SCHEME.prefix}/bin/")


def meaning(text: bytes, interpreter: str) -> tuple[str, str] | None:
    """What a script made from an entry point imports and calls; None when it is no such script."""
    head, _, rest = text.partition(b"\n")
    if head != b"#!" + interpreter.encode() or b"sys.exit(" not in rest:
        return None
    tree = ast.parse(rest)
    imported = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
    mains = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'"]
    if len(imported) != 1 or len(mains) != 1:
        return None
    return f"{imported[0].module}:{imported[0].names[0].name}", ast.unparse(mains[0].body[-1])


def may_differ(path: str) -> bool:
    """Whether the row of a RECORD may be another one, by the rules above."""
    own = is_note(path, *OWN_NOTES) or is_byte_code(path)
    return own or path.startswith("../../../bin/") or ".data/scripts/" in path


def records(tree: Tree) -> dict[str, dict[str, str]]:
    """The rows of every RECORD: hash by file, without those that may differ."""
    found = {}
    for name, file in tree.files.items():
        if not is_note(name, "RECORD"):
            continue
        rows = list(csv.reader(file.text.decode().splitlines()))
        assert rows and all(len(row) == 3 for row in rows), name
        found[name] = {path: digest for path, digest, _ in rows if not may_differ(path)}
    return found


def test_the_table_has_forty_wheels() -> None:
    rows = table()
    assert len({row.name for row in rows}) == len(rows) == 40
    assert [row.name for row in rows if row.big] == ["torch", "xgboost"]
    assert all(row.exercises for row in rows)


def test_the_same_files_and_folders_lie_there(trees: Trees) -> None:
    allowed = {n for n in trees.pips.files if is_note(n, "REQUESTED") or pips_own_script(n) or is_byte_code(n)}
    expected = set(trees.pips.files) - allowed
    assert sorted(expected - set(trees.ours.files)) == [], "pip alone lays these down"
    assert sorted(set(trees.ours.files) - expected) == [], "we alone lay these down"
    of_files = {folder for name in expected for folder in parents(name)}
    assert trees.ours.folders == of_files <= trees.pips.folders


def parents(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def test_every_byte_and_bit_is_the_same(trees: Trees) -> None:
    differ = []
    for name, mine in trees.ours.files.items():
        if is_note(name, *OWN_NOTES):
            continue
        theirs = trees.pips.files[name]
        if mine.executable != (theirs.executable or is_script(name)):
            differ.append(f"{name}: executable here {mine.executable}, there {theirs.executable}")
        if mine.sha256 == theirs.sha256:
            continue
        if not is_script(name):
            differ.append(f"{name}: other bytes")
        elif same := meaning(mine.text, trees.ours.interpreter):
            if same != meaning(theirs.text, trees.pips.interpreter):
                differ.append(f"{name}: {same}, there {meaning(theirs.text, trees.pips.interpreter)}")
        elif mine.text.replace(trees.ours.interpreter.encode(), trees.pips.interpreter.encode(), 1) != theirs.text:
            differ.append(f"{name}: other text")
    assert differ == []


def test_every_record_lists_the_same(trees: Trees) -> None:
    mine, theirs = records(trees.ours), records(trees.pips)
    assert sorted(mine) == sorted(theirs)
    assert len(mine) == len(trees.wheels)
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_each_record_is_true(trees: Trees) -> None:
    """Every row names a file that is there, in its very bytes; every file is in one RECORD."""
    for tree in (trees.ours, trees.pruned):
        listed = set()
        for name, file in tree.files.items():
            if is_note(name, "RECORD"):
                for path, spec, _ in csv.reader(file.text.decode().splitlines()):
                    place = os.path.normpath(f"{SCHEME.site}/{path}")
                    listed.add(place)
                    if spec.startswith("sha256="):
                        assert bytes.fromhex(tree.files[place].sha256) == decoded(spec), place
        assert sorted(listed ^ set(tree.files)) == []


def decoded(spec: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(spec.partition("=")[2] + "=")


def test_pruning_takes_what_its_rules_say_and_nothing_else(trees: Trees) -> None:
    gone = set(trees.ours.files) - set(trees.pruned.files)
    assert set(trees.pruned.files) < set(trees.ours.files)
    for name in gone:
        in_tests = "/tests/" in name
        assert in_tests or Path(name).suffix in PRUNED_SUFFIXES or any(p in name for p in PRUNED_PLACES), name
    kept = [n for n in trees.pruned.files if trees.pruned.files[n] != trees.ours.files[n]]
    assert all(is_note(name, "RECORD") for name in kept)
    helpers = [n for n in gone if ("/testing/" in n or "/_testing/" in n) and "/tests/" not in n and n.endswith(".py")]
    assert sorted(helpers) == [], "what helps to test is used at run time"
    compilers = [n for n in gone if f"{SCHEME.site}/Cython/" in n]
    assert sorted(compilers) == [], "what compiles at run time needs its headers"


def test_the_bytes_depend_on_the_wheels_alone(tmp_path: Path) -> None:
    import io
    import time

    from intermodal.rooms.build.wheels.groups import Group

    wheels = fetched([row for row in table() if not row.big])[:12]
    outputs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        copies = {}
        for wheel in wheels:
            copies[wheel.locked.digest] = folder / f"{name}{wheel.locked.name[:3]}"
            copies[wheel.locked.digest].write_bytes(wheel.path.read_bytes())
            os.utime(copies[wheel.locked.digest], (time.time() - 9999, 1))
        out = io.BytesIO()
        every = Group(tuple(wheel.locked for wheel in wheels), single=False)
        write_group(every, copies, SCHEME, out, rules=lambda _: rules(), compile_sources=None, events=SILENT)
        outputs.append(out.getvalue())
    assert outputs[0] == outputs[1]


def test_the_wheels_own_streams_are_in_the_layer() -> None:
    import io
    import zipfile

    (numpy,) = [wheel for wheel in fetched([row for row in table() if not row.big]) if wheel.locked.name == "numpy"]
    (alone,) = group([numpy.locked])
    files = {numpy.locked.digest: numpy.path}
    out = io.BytesIO()
    info, _ = write_group(alone, files, SCHEME, out, rules=lambda _: None, compile_sources=None, events=SILENT)
    stored, archive_bytes = out.getvalue(), numpy.path.read_bytes()
    with zipfile.ZipFile(numpy.path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
        start = largest.header_offset + 30 + len(largest.filename)
    stream = archive_bytes[start : start + largest.compress_size]
    assert stream in stored
    assert info.size_bytes < numpy.path.stat().st_size * 1.01 and info.tar_bytes > 3 * info.size_bytes
