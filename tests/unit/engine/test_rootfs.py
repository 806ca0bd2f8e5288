"""Layers put together: what lies above wins, by hard links only, and reading sees what the container would see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from intermodal.engine.loader import command, resolve
from intermodal.engine.rootfs import Way, compose, read_from_layers
from intermodal.errors import EngineError, UnsafePathError
from intermodal.oci.unpack import WHITEOUTS

POINTS = ("/proc", "/dev", "/tmp", "/run/intermodal")


def make(folder: Path, **content: str | None) -> Path:
    """A layer: `a__b="text"` is the file a/b, `a="-> target"` a link, `a=None` a folder."""
    folder.mkdir()
    for name, text in content.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.mkdir(exist_ok=True)
        elif text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_text(text)
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Every file and link below `folder`."""
    return {
        str(path.relative_to(folder)): f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_what_lies_above_wins(tmp_path: Path) -> None:
    layers = [
        make(tmp_path / "1", a__x="1", a__y="1", b="file", c__deep="1", link="-> a", dir__in="1"),
        make(tmp_path / "2", a__x="2", b__now="a folder", c="a file", link="now a file", dir="-> a"),
        make(tmp_path / "3", a__z="3"),
    ]
    root = compose(layers, "hardlink", tmp_path / "cache", POINTS)
    assert root.merged is not None
    assert root.arguments == ("--ro-bind", str(root.merged), "/")
    assert tree(root.merged) == {
        "a/x": "2", "a/y": "1", "a/z": "3", "b/now": "a folder", "c": "a file", "link": "now a file", "dir": "-> a",
    }  # fmt: skip
    assert (root.merged / "a/y").stat().st_ino == (tmp_path / "1/a/y").stat().st_ino
    assert (root.merged / "run/intermodal").is_dir()
    assert tree(tmp_path / "1")["a/x"] == "1", "a layer was written to"
    assert compose(layers, "hardlink", tmp_path / "cache", POINTS) == root


@pytest.mark.parametrize("way", ["overlay", "hardlink", "loader"])
def test_what_a_layer_deletes_is_gone(way: Way, tmp_path: Path) -> None:
    layers = [
        make(tmp_path / "1", a__x="1", a__y="1", b__deep__z="1", c__old="1", link="-> a", kept="1"),
        make(tmp_path / "2", a__x="2"),
        make(tmp_path / "3", **{WHITEOUTS: "", "a__.wh.x": "", ".wh.b": "", "c__.wh..wh..opq": "", ".wh.link": ""}),
        make(tmp_path / "4", c__top="4", b="a file now"),
    ]
    (tmp_path / "3/c/new").write_text("3")
    root = compose(layers, way, tmp_path / "cache", ())
    below = root.merged or Path(root.arguments[3])
    expected = {"a/y": "1", "c/new": "3", "kept": "1", "b": "a file now", "c/top": "4"}
    if way == "overlay":  # all that lies above what deletes stays a layer of its own
        assert root.arguments[-3:] == (str(layers[3]), "--ro-overlay", "/")
        expected = {name: text for name, text in expected.items() if name not in ("b", "c/top")}
    assert tree(below) == expected
    assert tree(layers[0])["a/x"] == "1", "a layer was written to"


def test_modes_of_folders_survive(tmp_path: Path) -> None:
    layer = make(tmp_path / "1", private__x="1")
    (layer / "private").chmod(0o700)
    merged = compose([layer], "hardlink", tmp_path / "cache", ()).merged
    assert merged is not None
    assert (merged / "private").stat().st_mode & 0o777 == 0o700


def test_overlay_names_layers_lowest_first_and_brings_mount_points(tmp_path: Path) -> None:
    layers = [make(tmp_path / "1", a="1"), make(tmp_path / "2", a="2")]
    arguments = compose(layers, "overlay", tmp_path / "cache", POINTS).arguments
    assert arguments[-2:] == ("--ro-overlay", "/")
    sources = arguments[1:-2:2]
    assert sources[1:] == tuple(map(str, layers))
    assert all((Path(sources[0]) / point.strip("/")).is_dir() for point in POINTS)


def test_long_lists_keep_a_stable_merged_prefix(tmp_path: Path) -> None:
    layers = [make(tmp_path / f"{n:064d}", **{f"f{n}": str(n), "same": str(n)}) for n in range(60)]

    def sources(count: int) -> list[str]:
        found = compose(layers[:count], "overlay", tmp_path / "cache", ()).arguments[1:-2:2]
        assert sum(len(source) + len("/oldroot:") for source in found) < 3800
        return list(found)

    first = sources(58)
    merged = [source for source in first if "/merged/" in source]
    assert first[0] == merged[0]
    whole: dict[str, str] = {}
    for source in first:
        whole |= tree(Path(source))
    assert whole == {**{f"f{n}": str(n) for n in range(58)}, "same": "57"}


@pytest.mark.parametrize("content", [{"tmp": "-> /etc"}, {"tmp": "a file"}, {"run": "-> x"}, {"run__intermodal": "x"}])
def test_anything_but_a_folder_at_a_mount_point_is_refused(tmp_path: Path, content: dict[str, str]) -> None:
    with pytest.raises(UnsafePathError, match="something else than a folder"):
        compose([make(tmp_path / "1", ok="1"), make(tmp_path / "2", **content)], "overlay", tmp_path / "c", POINTS)


def test_reading_sees_the_highest_layer_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    layers = [
        make(tmp_path / "1", etc__a="low", etc__b="low", etc__c="low", etc__big="x" * 100),
        make(tmp_path / "2", etc__a="high", etc__b=f"-> {tmp_path / 'secret'}", sub=f"-> {tmp_path}"),
    ]
    assert read_from_layers(layers, "/etc/a", 100) == b"high"
    assert read_from_layers(layers, "/etc/c", 100) == b"low"
    assert read_from_layers(layers, "/etc/big", 100) == b"x" * 100
    assert read_from_layers(layers, "/etc/big", 99) is None
    assert read_from_layers(layers, "/etc/b", 100) is None
    assert read_from_layers(layers, "/sub/secret", 100) is None
    assert read_from_layers(layers, "/etc", 100) is None
    assert read_from_layers(layers, "/none", 100) is None


def test_links_are_resolved_inside_the_root(tmp_path: Path) -> None:
    root = make(
        tmp_path / "root",
        usr__bin__python3="-> python3.11",
        **{"usr__bin__python3.11": "program", "bin": "-> usr/bin", "up": "-> ../../../bin/python3"},
        absolute="-> /usr/bin/python3",
        loop="-> loop",
        out=f"-> {tmp_path}/secret",
    )
    (tmp_path / "secret").write_text("secret")
    program = root / "usr/bin/python3.11"
    for path in ("/usr/bin/python3", "/bin/python3", "/absolute", "/up", "/bin/../bin/./python3"):
        assert resolve(root, path) == program
    for path in ("/out", "/none", "/loop"):
        with pytest.raises(EngineError):
            resolve(root, path)


@pytest.mark.parametrize(
    "program", [b"#!/bin/sh\n" + b" " * 99, b"\x7fELF\x02" + bytes(90), b"", b"\x7fELF\x01" + bytes(90)]
)
def test_program_that_is_no_dynamic_elf_is_refused(tmp_path: Path, program: bytes) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "tool").write_bytes(program)
    with pytest.raises(EngineError, match="without a container"):
        command(root, ["/tool"], "/", "amd64", environment={}, ours={}, scratch=tmp_path)
