"""The corpus of hostile layers: every case refused by name, nothing written outside, nothing left inside."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.errors import IntermodalError
from intermodal.oci.digest import Digest
from intermodal.oci.layer_stream import Limits
from intermodal.oci.unpack import unpack_layer

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, data: bytes = b"hostile", mode: int = 0o644) -> Member:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    return entry, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def special(name: str, kind: bytes) -> Member:
    entry = tarfile.TarInfo(name)
    entry.type, entry.devmajor, entry.devminor = kind, 1, 3
    return entry, b""


def folder(name: str) -> Member:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry, b""


def tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry, data in members:
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def raw(flag: bytes, size: int, name: bytes = b"x") -> bytes:
    """One header as somebody might forge it."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108] = b"0000644\0"
    header[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 8**11 else b"%011o\0" % size
    header[156:157] = flag
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(records: bytes, flag: bytes = b"x") -> bytes:
    return raw(flag, len(records)) + records + bytes(-len(records) % 512)


HOME = "OUTSIDE"  # replaced by a real folder that must stay as it is

CASES: dict[str, tuple[Callable[[str], bytes], str]] = {
    "climbs": (lambda _: tar(file("../../victim")), "leaves its root"),
    "climbs in the middle": (lambda _: tar(file("a/../../victim")), "leaves its root"),
    "absolute": (lambda out: tar(file(f"{out}/victim")), "leaves its root"),
    "absolute folder": (lambda out: tar(folder(f"{out}/victim")), "leaves its root"),
    "write through a symlink": (lambda out: tar(link("l", out), file("l/victim")), "no folder"),
    "write through a relative symlink": (lambda _: tar(folder("d"), link("l", "d"), file("l/f")), "no folder"),
    "write through two symlinks": (
        lambda out: tar(link("a", out), link("b", "a"), file("b/victim")),
        "no folder",
    ),
    "folder through a symlink": (lambda out: tar(link("l", out), folder("l/victim")), "no folder"),
    "file replaces a symlink": (lambda out: tar(link("l", f"{out}/kept"), file("l")), "two entries"),
    "folder replaces a symlink": (lambda out: tar(link("l", out), folder("l"), file("l/victim")), "two entries"),
    "symlink replaces a folder": (lambda out: tar(folder("d"), link("d", out), file("d/victim")), "two entries"),
    "symlink replaces an implied folder": (
        lambda out: tar(file("d/f"), link("d", out), file("d/victim")),
        "two entries",
    ),
    "symlink climbs": (lambda _: tar(link("a/l", "../../../etc")), "leaves its root"),
    "symlink climbs late": (lambda _: tar(link("a/l", "b/../../../x")), "leaves its root"),
    "symlink without a target": (lambda _: tar(link("l", "")), "without a target"),
    "hard link climbs": (lambda _: tar(link("h", "../kept", tarfile.LNKTYPE)), "leaves its root"),
    "hard link absolute": (lambda out: tar(link("h", f"{out}/kept", tarfile.LNKTYPE)), "leaves its root"),
    "hard link to a symlink": (
        lambda out: tar(link("s", f"{out}/kept"), link("h", "s", tarfile.LNKTYPE)),
        "no file of this layer",
    ),
    "hard link through a symlink": (
        lambda out: tar(link("s", out), link("h", "s/kept", tarfile.LNKTYPE)),
        "no file of this layer",
    ),
    "hard link to nothing": (lambda _: tar(link("h", "nothing", tarfile.LNKTYPE)), "no file of this layer"),
    "hard link to a folder": (lambda _: tar(folder("d"), link("h", "d", tarfile.LNKTYPE)), "no file of this layer"),
    "hard link to itself": (lambda _: tar(link("h", "h", tarfile.LNKTYPE)), "no file of this layer"),
    "character device": (lambda _: tar(special("null", tarfile.CHRTYPE)), "never unpacked"),
    "block device": (lambda _: tar(special("disk", tarfile.BLKTYPE)), "never unpacked"),
    "pipe": (lambda _: tar(special("pipe", tarfile.FIFOTYPE)), "never unpacked"),
    "file twice": (lambda _: tar(file("f"), file("f")), "two entries"),
    "file twice, spelled differently": (lambda _: tar(file("./d//f"), file("d/./f")), "two entries"),
    "folder twice": (lambda _: tar(folder("d"), folder("d")), "two entries"),
    "file over folder": (lambda _: tar(folder("d"), file("d")), "two entries"),
    "folder over file": (lambda _: tar(file("d"), folder("d")), "two entries"),
    "below a file": (lambda _: tar(file("f"), file("f/g")), "no folder"),
    "whiteout as a folder": (lambda _: tar(folder("etc/.wh.passwd")), "may delete"),
    "whiteout as a link": (lambda out: tar(link("etc/.wh.passwd", out)), "may delete"),
    "our own mark": (lambda _: tar(file(".wh..wh.any", b"")), "may delete"),
    "whiteout of the parent": (lambda _: tar(file("etc/.wh...", b"")), "may delete"),
    "whiteout of the folder itself": (lambda _: tar(file("etc/.wh..", b"")), "may delete"),
    "whiteout of nothing": (lambda _: tar(file(".wh.", b"")), "may delete"),
    "opaque root": (lambda _: tar(file(".wh..wh..opq", b"")), "may delete"),
    "whiteout through a symlink": (lambda out: tar(link("l", out), file("l/.wh.kept", b"")), "no folder"),
    "root as a symlink": (lambda out: tar(link(".", out), file("victim")), "its own root"),
    "root as a file": (lambda _: raw(b"0", 0, b".") + bytes(1024), "its own root"),
    "empty name": (lambda _: raw(b"0", 0, b"") + bytes(1024), "its own root"),
    "name too long": (lambda _: tar(file("n" * 256)), "too deep or too long"),
    "path too long": (lambda _: tar(file("d/" * 3000 + "f")), "too long"),
    "too deep": (lambda _: tar(file("d/" * 200 + "f")), "too deep"),
    "not UTF-8": (lambda _: raw(b"0", 0, b"\xff\xfe") + bytes(1024), "not UTF-8"),
    "NUL in a pax path": (lambda _: pax(b"16 path=ab\0cdef\n") + raw(b"0", 0) + bytes(1024), "NUL"),
    "huge pax header": (lambda _: raw(b"x", 4 << 30) + bytes(1024), "oversized extended header"),
    "huge GNU name": (lambda _: raw(b"L", 4 << 30) + bytes(1024), "oversized extended header"),
    "pax length lies": (lambda _: pax(b"99 path=a\n") + raw(b"0", 0) + bytes(1024), "damaged pax"),
    "pax length zero": (lambda _: pax(b"0 path=a\n") + raw(b"0", 0) + bytes(1024), "damaged pax"),
    "pax record without a length": (lambda _: pax(b"9 path=a\nx\n") + raw(b"0", 0) + bytes(1024), "damaged pax"),
    "two long names for one entry": (
        lambda _: raw(b"L", 2) + b"a\0" + bytes(510) + raw(b"L", 2) + b"b\0" + bytes(510) + raw(b"0", 0) + bytes(1024),
        "two extended headers",
    ),
    "one name for all entries": (
        lambda _: pax(b"10 path=b\n", b"g") + raw(b"0", 0, b"a") + bytes(1024),
        "all entries",
    ),
    "long name longer than it says": (
        lambda _: raw(b"L", 2) + b"abc" + bytes(509) + raw(b"0", 0) + bytes(1024),
        "bytes behind its end",
    ),
    "long name that is empty": (lambda _: raw(b"L", 0) + raw(b"0", 0) + bytes(1024), "empty name"),
    "pax header of no entry": (lambda _: tar(file("a"))[:1024] + pax(b"10 path=b\n") + bytes(1024), "no entry"),
    "pax size is no number": (lambda _: pax(b"10 size=-1\n") + raw(b"0", 0) + bytes(1024), "number|damaged pax"),
    "negative size": (lambda _: _with_size(b"\xff" * 12), "negative or oversized"),
    "size is no number": (lambda _: _with_size(b"12x45678901\0"), "else than a number"),
    "sparse, old form": (lambda _: raw(b"S", 1 << 40) + bytes(1024), "kind we do not unpack"),
    "sparse, pax form": (lambda _: pax(b"22 GNU.sparse.major=1\n") + raw(b"0", 0) + bytes(1024), "sparse"),
    "multi-volume": (lambda _: raw(b"M", 0) + bytes(1024), "kind we do not unpack"),
    "symlink with content": (lambda _: raw(b"2", 512) + bytes(1536), "content to an entry that has none"),
    "one terabyte announced": (lambda _: raw(b"0", 1 << 40) + bytes(1024), "ends in the middle of a file"),
    "wrong checksum": (lambda _: b"y" + tar(file("x"))[1:], "wrong checksum"),
    "truncated header": (lambda _: tar(file("a"))[:700], "ends in the middle"),
    "no end mark": (lambda _: tar(file("a"))[:1024], "ends in the middle"),
    "not a tar": (lambda _: b"#!/bin/sh\n" * 200, "wrong checksum|else than a number"),
}


def _with_size(field: bytes) -> bytes:
    header = bytearray(raw(b"0", 0))
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


class Blobs:
    """One stored layer."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def path(self, _digest: Digest) -> Path:
        return self.place


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that must be the same afterwards."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "kept").write_text("kept")
    before = sorted(p.name for p in tmp_path.iterdir())
    yield place
    assert {p.name: p.read_text() for p in place.iterdir()} == {"kept": "kept"}
    assert (place / "kept").stat().st_nlink == 1
    assert {p.name for p in tmp_path.iterdir()} - set(before) <= {"blob", "rootfs"}


def attempt(tmp_path: Path, plain: bytes, limits: Limits | None = None) -> Path:
    stored = gzip.compress(plain, 1)
    (tmp_path / "blob").write_bytes(stored)
    return unpack_layer(
        Blobs(tmp_path / "blob"), Digest.of(stored), Digest.of(plain), tmp_path / "rootfs", limits=limits or Limits()
    )


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_refused_with_nothing_written(case: str, tmp_path: Path, outside: Path) -> None:
    make, message = CASES[case]
    with pytest.raises(IntermodalError, match=message):
        attempt(tmp_path, make(str(outside)))
    assert [p.suffix for p in (tmp_path / "rootfs").iterdir()] == [".lock"], "something was left behind"


@pytest.mark.usefixtures("outside")
def test_setuid_and_sticky_bits_are_stripped(tmp_path: Path) -> None:
    made = attempt(tmp_path, tar(file("su", mode=0o7777), folder("d")))
    assert (made / "su").stat().st_mode & 0o7022 == 0


@pytest.mark.usefixtures("outside")
def test_gzip_bomb_stops_early(tmp_path: Path) -> None:
    plain = raw(b"0", 64 << 20, b"zeros") + bytes((64 << 20) + 1024)
    with pytest.raises(IntermodalError, match="far more"):
        attempt(tmp_path, plain, Limits(ratio=100, ratio_from_bytes=1 << 20))
    assert sum(p.stat().st_size for p in (tmp_path / "rootfs").rglob("*")) == 0


@pytest.mark.usefixtures("outside")
def test_more_entries_than_any_layer_has(tmp_path: Path) -> None:
    with pytest.raises(IntermodalError, match="too many entries"):
        attempt(tmp_path, tar(*(file(f"f{number}") for number in range(60))), Limits(entries=50))
    assert [p.suffix for p in (tmp_path / "rootfs").iterdir()] == [".lock"]


@pytest.mark.usefixtures("outside")
def test_zstd_where_gzip_was_promised(tmp_path: Path) -> None:
    stored = b"\x28\xb5\x2f\xfd\x04\x00" + bytes(200)  # the frame of another compression, which is not read here
    (tmp_path / "blob").write_bytes(stored)
    with pytest.raises(IntermodalError, match="not gzip"):
        unpack_layer(Blobs(tmp_path / "blob"), Digest.of(stored), Digest.of(b""), tmp_path / "rootfs")
    assert [p.suffix for p in (tmp_path / "rootfs").iterdir()] == [".lock"]


@pytest.mark.usefixtures("outside")
def test_a_hard_link_that_cannot_be_made_is_never_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", elsewhere)
    with pytest.raises(IntermodalError, match="cannot unpack"):
        attempt(tmp_path, tar(file("f"), link("h", "f", tarfile.LNKTYPE)))
    assert [p.suffix for p in (tmp_path / "rootfs").iterdir()] == [".lock"]


@pytest.mark.usefixtures("outside")
def test_layer_that_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    plain = raw(b"0", 8 << 20, b"zeros") + bytes((8 << 20) + 1024)
    assert (attempt(tmp_path, plain) / "zeros").stat().st_size == 8 << 20


NAMES = st.sampled_from(["a", "b", "a/b", "a/b/c", "../a", "/a", ".", "a/../b", "./a", "l", "l/a", ".wh.a", "a//b"])
MEMBERS = st.lists(
    st.one_of(
        st.builds(file, NAMES),
        st.builds(folder, NAMES),
        st.builds(link, NAMES, st.sampled_from(["..", "../..", "/", "a", "../outside", "OUTSIDE", "b/c"])),
        st.builds(link, NAMES, NAMES, st.just(tarfile.LNKTYPE)),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(members=MEMBERS)
def test_no_combination_escapes(tmp_path_factory: pytest.TempPathFactory, members: list[Member]) -> None:
    base = tmp_path_factory.mktemp("combination")
    victim = base / "outside"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    for entry, _ in members:
        if entry.linkname == HOME:
            entry.linkname = str(victim)
    try:
        made = attempt(base, tar(*members))
    except IntermodalError:
        made = None
    assert {p.name: p.read_text() for p in victim.iterdir()} == {"kept": "kept"}
    assert {p.name for p in base.iterdir()} <= {"outside", "blob", "rootfs"}
    if made is not None:
        for place, _, files in os.walk(made):
            for name in files:
                path = Path(place, name)
                assert path.is_symlink() or path.read_bytes() == (b"" if name.startswith(".wh.") else b"hostile")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_errors_of_ours(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    plain = bytearray(tar(folder("d"), file("d/f", b"x" * 700), link("l", "d/f"), file("n" * 150)))
    for position in data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=6)):
        plain[position] = data.draw(st.integers(0, 255))
    base = tmp_path_factory.mktemp("damaged")
    with contextlib.suppress(IntermodalError):
        attempt(base, bytes(plain))
    assert {p.name for p in base.iterdir()} <= {"blob", "rootfs"}
