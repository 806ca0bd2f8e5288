"""Model folders and archives that want out of their folder, or more than their share."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.machine import machine

from intermodal.errors import ArtifactError
from intermodal.project.load import load
from intermodal.rooms.inspect import ModelCard, inspect

NODE = {"__class__": "LinearRegression", "__module__": "sklearn.linear_model._base", "__loader__": "ObjectNode"}


def look(root: Path) -> ModelCard:
    """`inspect` on a project whose model is the folder or file `model`."""
    name = next(path.name for path in root.iterdir() if path.name.startswith("model"))
    (root / "intermodal.toml").write_text(f'[model]\nname = "demo"\nartifact = "{name}"\n')
    host = machine(root.parent / "home")
    return inspect(load(root, host), host=host)


def folder(*make: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
    def build(root: Path, outside: Path) -> None:
        (root / "model").mkdir()
        (root / "model" / "model.onnx").write_bytes(b"\x08\x07")
        for each in make:
            each(root / "model", outside)

    return build


def archive(
    change: Callable[[zipfile.ZipFile], object], method: int = zipfile.ZIP_DEFLATED
) -> Callable[[Path, Path], None]:
    def build(root: Path, _outside: Path) -> None:
        with zipfile.ZipFile(root / "model.skops", "w", method) as made:
            change(made)

    return build


def damaged(root: Path, _outside: Path) -> None:
    archive(lambda made: made.writestr("schema.json", json.dumps(NODE) + " " * 4000))(root, root)
    path = root / "model.skops"
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)


def dictionary_of_gigabytes(root: Path, _outside: Path) -> None:
    """An LZMA member whose properties ask for a dictionary of 4 GB."""
    archive(lambda made: made.writestr("schema.json", json.dumps(NODE)), zipfile.ZIP_LZMA)(root, root)
    path = root / "model.skops"
    data = bytearray(path.read_bytes())
    at = 30 + len("schema.json")
    data[at + 5 : at + 9] = b"\xff" * 4
    path.write_bytes(data)


CASES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "symlink out of the folder": (
        folder(lambda model, outside: (model / "weights.bin").symlink_to(outside / "secret")),
        "leads out",
    ),
    "relative symlink out of the folder": (
        folder(lambda model, _: (model / "weights.bin").symlink_to("../../outside/secret")),
        "leads out",
    ),
    "symlink to a folder outside": (
        folder(lambda model, outside: (model / "weights").symlink_to(outside)),
        "leads out",
    ),
    "chain of symlinks out of the folder": (
        folder(
            lambda model, outside: (model / "a").symlink_to(outside / "secret"),
            lambda model, _: (model / "b").symlink_to("a"),
        ),
        "leads out",
    ),
    "symlink to a folder inside": (
        folder(lambda model, _: (model / "a").mkdir(), lambda model, _: (model / "b").symlink_to("a")),
        "a link to a folder",
    ),
    "symlink to nothing": (folder(lambda model, _: (model / "w").symlink_to("nowhere")), "nothing or to itself"),
    "symlink to itself": (folder(lambda model, _: (model / "w").symlink_to("w")), "nothing or to itself"),
    "pipe": (folder(lambda model, _: os.mkfifo(model / "w")), "no plain file"),
    "skops schema nested too deep": (archive(lambda z: z.writestr("schema.json", "[" * 100_000)), "cannot be read"),
    "skops damaged": (damaged, "truncated or damaged|cannot be read"),
    "skops in LZMA": (
        archive(lambda z: z.writestr("schema.json", json.dumps(NODE)), zipfile.ZIP_LZMA),
        "bounded memory",
    ),
    "skops with a dictionary of gigabytes": (dictionary_of_gigabytes, "bounded memory"),
    "skops in bzip2": (
        archive(lambda z: z.writestr("schema.json", json.dumps(NODE)), zipfile.ZIP_BZIP2),
        "bounded memory",
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_refused_with_nothing_written(case: str, tmp_path: Path) -> None:
    make, message = CASES[case]
    root, outside = tmp_path / "project", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("hunter2")
    make(root, outside)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match=message) as caught:
        look(root)
    assert "hunter2" not in str(caught.value)
    after = sorted(str(path) for path in tmp_path.rglob("*") if path.name != "intermodal.toml")
    assert after == before


def test_a_skops_archive_with_names_that_leave_it_is_unsafe(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    schema = json.dumps({**NODE, "content": {}, "_skops_version": "0.11.0"})
    make = archive(lambda z: (z.writestr("schema.json", schema), z.writestr("../../evil.npy", b"x")))
    make(tmp_path / "project", tmp_path)
    found = look(tmp_path / "project")
    assert not found.safe
    assert "unsafe-path" in [finding.id for finding in found.findings]
    assert not list(tmp_path.rglob("evil.npy"))
