"""Every kind of hostile wheel on the way into a store: refused by name, and the store is as empty as before."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.wheels import make_wheel

from intermodal.errors import IntermodalError
from intermodal.events import SILENT
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.rooms.build.wheels.groups import Group, LockedWheel
from intermodal.rooms.build.wheels.layers import write_group
from intermodal.rooms.build.wheels.scheme import Scheme

CODE = "VALUE = 1\n" * 300
Maker = Callable[[Path], Path]


def wheel(files: dict[str, str | bytes] | None = None, *, points: str = "") -> Maker:
    return lambda folder: make_wheel(folder, "demo", "1.0", {"demo/a.py": CODE, **(files or {})}, entry_points=points)


def changed(change: Callable[[bytearray], object], files: dict[str, str | bytes] | None = None) -> Maker:
    """A wheel with its bytes changed after it was made."""

    def make(folder: Path) -> Path:
        path = wheel(files)(folder)
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return path

    return make


def rebuilt(change: Callable[[zipfile.ZipInfo], object]) -> Maker:
    """A wheel whose archive was written again with other headers; RECORD stays right."""

    def make(folder: Path) -> Path:
        path = wheel()(folder)
        again = path.with_suffix(".new")
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
            for info in old.infolist():
                data = old.read(info)
                if info.filename == "demo/a.py":
                    change(info)
                new.writestr(info, data, info.compress_type)
        return again.rename(path)

    return make


def put(form: str, offset: int, value: int, magic: bytes, name: bytes = b"demo/a.py") -> Callable[[bytearray], None]:
    """Write a number into the header of a member: `magic` says whether the local or the central one."""
    length = 30 if magic == b"PK\3\4" else 46

    def change(data: bytearray) -> None:
        at = data.index(name) if magic == b"PK\3\4" else data.rindex(name)
        struct.pack_into(form, data, at - length + offset, value)

    return change


def both(form: str, local: int, central: int, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        put(form, local, value, b"PK\3\4")(data)
        put(form, central, value, b"PK\1\2")(data)

    return change


def ten_million_entries(folder: Path) -> Path:
    """An end record that announces ten million rows, in zip64."""
    path = folder / "demo-1.0-py3-none-any.whl"
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 10**7, 10**7, 0, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    path.write_bytes(record + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0, 0, 0))
    return path


def one_row(row: bytes) -> Callable[[bytearray], None]:
    return lambda data: data.__setitem__(slice(None), data.replace(b"PK\1\2", row, 1))


CASES: dict[str, tuple[Maker, str]] = {
    "name climbs": (wheel({"../evil.py": CODE}), "climbs"),
    "name climbs in the middle": (wheel({"demo/../../evil.py": CODE}), "climbs"),
    "name absolute": (wheel({"/etc/cron.d/evil": CODE}), "absolute"),
    "name with backslashes": (wheel({"..\\..\\evil.py": CODE}), "two ways"),
    "name with a drive": (wheel({"C:/evil.py": CODE}), "two ways"),
    "name that writes to the terminal": (wheel({"demo/\x1b[2J.py": CODE}), "two ways"),
    "name too long": (wheel({"n" * 1025: CODE}), "too long"),
    "whiteout": (wheel({"demo/.wh.os.py": CODE}), "whiteout"),
    "data folder climbs": (wheel({"demo-1.0.data/data/../../../../etc/x": CODE}), "climbs"),
    "unknown data folder": (wheel({"demo-1.0.data/etc/passwd": CODE}), "no data folder"),
    "script replaces the interpreter": (wheel({"demo-1.0.data/scripts/python": CODE}), "would replace"),
    "data replaces the environment": (wheel({"demo-1.0.data/data/pyvenv.cfg": CODE}), "would replace"),
    "pth adds a folder above": (wheel({"demo.pth": "../../../../app\n"}), "outside site-packages"),
    "pth adds an absolute folder": (wheel({"demo.pth": "import os\n/app\n"}), "outside site-packages"),
    "entry point climbs": (wheel(points="[console_scripts]\n../evil = demo:main\n"), "entry point"),
    "entry point absolute": (wheel(points="[gui_scripts]\n/evil = demo:main\n"), "entry point"),
    "entry point brings code": (wheel(points="[console_scripts]\nx = demo:main; import os\n"), "entry point"),
    "member is a symlink": (rebuilt(lambda info: setattr(info, "external_attr", 0o120777 << 16)), "no plain file"),
    "member is a device": (rebuilt(lambda info: setattr(info, "external_attr", 0o020666 << 16)), "no plain file"),
    "file and folder of one name": (wheel({"demo": CODE}), "file and a folder"),
    "file twice": (changed(lambda d: d.__setitem__(slice(None), d.replace(b"__INIT__", b"__init__")),
                           {"demo/__init__.py": CODE, "demo/__INIT__.py": CODE}), "twice"),
    "bomb": (wheel({"demo/zeros": bytes(80 << 20)}), "expands from"),
    "bomb that announces little": (
        changed(both("<I", 22, 24, 100), {"demo/b.py": bytes(8 << 20)}),
        "RECORD says|longer than",
    ),
    "ten million entries": (ten_million_entries, "10000000 entries"),
    "encrypted": (changed(both("<H", 6, 8, 1)), "encrypted"),
    "other compression": (rebuilt(lambda info: setattr(info, "compress_type", zipfile.ZIP_LZMA)), "method 14"),
    "headers disagree": (changed(put("<I", 14, 7, b"PK\3\4")), "headers disagree"),
    "wrong CRC": (changed(both("<I", 14, 16, 7)), "CRC-32"),
    "member beyond the end": (changed(both("<I", 18, 20, 1 << 30)), "cut off"),
    "something before the archive": (
        changed(lambda d: d.__setitem__(slice(0, 0), b"#!/bin/sh\n")),
        "not where it says",
    ),
    "something behind the archive": (changed(lambda d: d.extend(b"#!/bin/sh\n")), "follows its end"),
    "truncated": (changed(lambda d: d.__delitem__(slice(-30, None))), "no zip archive|truncated"),
    "no zip": (changed(lambda d: d.__setitem__(slice(None), b"#!/bin/sh\n" * 99)), "no zip archive"),
    "damaged directory": (changed(one_row(b"PK\1\3")), "damaged"),
    "content that RECORD does not vouch for": (
        lambda folder: _without_record(wheel()(folder)),
        "vouch",
    ),
    "content of another hash": (lambda folder: _with_other_content(wheel()(folder)), "sha256"),
}  # fmt: skip


def _rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    again = path.with_suffix(".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return again.rename(path)


def _without_record(path: Path) -> Path:
    return _rewritten(path, lambda name, data: b"demo-1.0.dist-info/RECORD,,\n" if name.endswith("RECORD") else data)


def _with_other_content(path: Path) -> Path:
    return _rewritten(path, lambda name, data: data.replace(b"1", b"2") if name == "demo/a.py" else data)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store, and a current folder, that must be the same afterwards."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = Store(tmp_path / "store").open_or_create()
    with made.session():
        before = everything(tmp_path)
    yield made
    assert everything(tmp_path) - before <= {"wheels", "wheels/demo-1.0-py3-none-any.whl"}


def everything(folder: Path) -> set[str]:
    return {os.path.relpath(Path(place, name), folder) for place, d, f in os.walk(folder) for name in (*d, *f)}


def build(path: Path, store: Store) -> None:
    digest, size_bytes = Digest.of_file(path)
    group = Group((LockedWheel("demo", "1.0", path.name, digest, size_bytes),), single=True)
    with store.session(), store.writer() as writer:
        info, _ = write_group(
            group, {digest: path}, Scheme("opt/venv", "3.11"), writer,
            rules=lambda _: None, compile_sources=None, events=SILENT,
        )  # fmt: skip
        writer.commit(info.digest)


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_refused_with_nothing_written(case: str, tmp_path: Path, store: Store) -> None:
    make, message = CASES[case]
    (tmp_path / "wheels").mkdir()
    with pytest.raises(IntermodalError, match=message) as caught:
        build(make(tmp_path / "wheels"), store)
    assert caught.value.exit_code == 2
    assert "demo-1.0-py3-none-any.whl" in str(caught.value)


def test_a_sound_wheel_is_stored(tmp_path: Path) -> None:
    made = Store(tmp_path / "store").open_or_create()
    build(wheel()(tmp_path / "wheels"), made)
    assert len(list(made.blobs.iterdir())) == 1


def test_an_archive_inside_a_wheel_is_a_file_like_any_other(tmp_path: Path) -> None:
    inner = wheel({"../evil.py": CODE})(tmp_path / "inner").read_bytes()
    made = Store(tmp_path / "store").open_or_create()
    build(wheel({"demo/inner.zip": inner})(tmp_path / "wheels"), made)
    assert not list(tmp_path.rglob("evil.py"))
