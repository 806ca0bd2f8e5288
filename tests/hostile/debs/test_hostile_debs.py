"""Packages that want out of the image, more than their share, or to be something else than they are."""

from __future__ import annotations

import lzma
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from isal import igzip
from support import debs
from support.machine import machine

from intermodal.errors import DuplicatePathError, InputError, PackageFileError, UnsafePathError
from intermodal.events import SILENT
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.rooms.build.base import base_layer
from intermodal.rooms.build.base_tree import Tree
from intermodal.rooms.build.debs import open_deb
from intermodal.rooms.build.debs_stream import Limits


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a package says: only the package itself lies in the folder, and no script of it ran."""
    monkeypatch.chdir(tmp_path)
    ran = Path("/tmp/ran")
    ran.unlink(missing_ok=True)
    yield
    elsewhere = [path for path in tmp_path.iterdir() if path.name not in ("store", "home", "debs")]
    assert {path.suffix for path in elsewhere} <= {".deb"}
    assert not ran.exists(), "a maintainer script was run"


def consume(tmp_path: Path, data: bytes, limits: Limits | None = None) -> list[str]:
    path = tmp_path / "evil.deb"
    path.write_bytes(data)
    with open_deb(path, Digest.of(data), limits=limits) as deb:
        return [entry.path for entry, pieces in deb.entries() if sum(map(len, pieces)) >= 0]


def merge(tmp_path: Path, packages: Iterable[list[tarfile.TarInfo | tuple[str, bytes]]]) -> list[str]:
    with Tree() as tree:
        for number, entries in enumerate(packages):
            data = debs.deb(entries)
            path = tmp_path / f"{number}.deb"
            path.write_bytes(data)
            with open_deb(path, Digest.of(data)) as deb:
                tree.add_package(deb, f"package{number}")
        return [node.path for node in tree.nodes()]


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "/etc/passwd", "./usr/../../etc/passwd", "./a/..", "..", "./" + "x" * 256]
)
def test_names_that_leave_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafePathError, match="outside the image"):
        consume(tmp_path, debs.deb([(name, b"owned")]))


@pytest.mark.parametrize("target", ["../../../etc/shadow", "..", "/../etc/shadow", ""])
def test_links_that_leave_the_root(tmp_path: Path, target: str) -> None:
    link = debs.symlink("./link", target)
    with pytest.raises(UnsafePathError):
        consume(tmp_path, debs.deb([link]))


@pytest.mark.parametrize("target", ["../../etc/shadow", "/etc/shadow"])
def test_hard_links_that_leave_the_root(tmp_path: Path, target: str) -> None:
    with pytest.raises(UnsafePathError):
        consume(tmp_path, debs.deb([("./etc/shadow", b""), debs.hardlink("./x", target)]))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_devices_pipes_and_sparse_files(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(PackageFileError):
        consume(tmp_path, debs.deb([debs.header("./dev/sda", kind)]))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_writing_through_a_link_of_another_package(tmp_path: Path, order: tuple[int, int]) -> None:
    packages = [[debs.symlink("./opt/data", "/etc")], [("./opt/data/passwd", b"root::0:0\n")]]
    with pytest.raises(UnsafePathError, match="through a link"):
        merge(tmp_path, [packages[i] for i in order])


def test_writing_through_a_link_of_the_same_package(tmp_path: Path) -> None:
    with pytest.raises(UnsafePathError, match="through a link"):
        merge(tmp_path, [[debs.symlink("./opt/data", "/etc"), ("./opt/data/passwd", b"")]])


def test_a_file_where_another_package_has_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnsafePathError):
        merge(tmp_path, [[("./opt/x/file", b"")], [("./opt/x", b"")]])


@pytest.mark.parametrize("twice", ["./etc/x", "./etc//x", "./etc/./x"])
def test_one_path_twice(tmp_path: Path, twice: str) -> None:
    with pytest.raises(DuplicatePathError, match="etc/x"):
        merge(tmp_path, [[("./etc/x", b"1"), (twice, b"2")]])


def test_one_path_twice_after_merging_into_usr(tmp_path: Path) -> None:
    with pytest.raises(DuplicatePathError, match="usr/lib/x"):
        merge(tmp_path, [[("./lib/x", b"1")], [("./usr/lib/x", b"2")]])


def test_a_link_named_like_the_merged_folders_cannot_capture_them(tmp_path: Path) -> None:
    assert merge(tmp_path, [[debs.symlink("./lib", "/tmp"), ("./lib/x", b"1")]]) == ["usr", "usr/lib", "usr/lib/x"]


def test_xz_bomb_stops_early_and_small(tmp_path: Path) -> None:
    compressor = lzma.LZMACompressor(preset=1)
    size = 96 << 20
    first = debs.header("./zeros")
    first.size = size
    packed = [compressor.compress(first.tobuf(tarfile.GNU_FORMAT))]
    packed += [compressor.compress(bytes(4 << 20)) for _ in range(size >> 22)]
    packed.append(compressor.flush())
    members = [(b"debian-binary", b"2.0\n"), (b"control.tar", debs.tar([("./control", b"Package: x\n")]))]
    data = debs.ar([*members, (b"data.tar.xz", b"".join(packed))])
    assert len(data) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(PackageFileError, match="beyond all bounds"):
            consume(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_absolute_bound_on_what_comes_out(tmp_path: Path) -> None:
    data = debs.deb([("./big", b"\x5a" * (2 << 20))])
    with pytest.raises(PackageFileError, match="beyond all bounds"):
        consume(tmp_path, data, Limits(expanded_bytes=1 << 20))


def test_too_many_entries(tmp_path: Path) -> None:
    data = debs.deb([(f"./{i}", b"") for i in range(60)])
    with pytest.raises(PackageFileError, match="too many entries"):
        consume(tmp_path, data, Limits(entries=50))


def test_control_member_is_bounded_too(tmp_path: Path) -> None:
    control = lzma.compress(debs.tar([("./control", b"Package: x\n" + b" " * (20 << 20))]))
    data = debs.ar([(b"debian-binary", b"2.0\n"), (b"control.tar.xz", control), (b"data.tar", debs.tar([]))])
    with pytest.raises(PackageFileError, match="beyond all bounds"):
        consume(tmp_path, data)


def test_a_dictionary_larger_than_any_package_needs(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20, "preset": 0}]
    header = lzma.compress(b"", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    assert header  # the encoder would need 5 GB for the large one: patch its size into a small stream instead
    small = bytearray(lzma.compress(debs.tar([("./x", b"y")]), filters=[{**filters[0], "dict_size": 1 << 20}]))
    at = small.index(b"\x21\x01", 12)  # filter id, one byte of properties
    small[at + 2] = 36  # 1 GiB
    end = 12 + (small[12] + 1) * 4
    small[end - 4 : end] = zlib.crc32(bytes(small[12 : end - 4])).to_bytes(4, "little")
    members = [(b"debian-binary", b"2.0\n"), (b"control.tar", debs.tar([("./control", b"Package: x\n")]))]
    with pytest.raises(PackageFileError, match="damaged") as caught:
        consume(tmp_path, debs.ar([*members, (b"data.tar.xz", bytes(small))]))
    assert "emory" in str(caught.value)


def test_cut_anywhere_is_an_error_and_never_another(tmp_path: Path) -> None:
    data = debs.deb([("./usr/bin/x", b"content" * 300), debs.symlink("./usr/bin/y", "x")])
    for end in [*range(300), *range(300, len(data) - 1, 7)]:
        with pytest.raises(InputError):
            consume(tmp_path, data[:end])


@pytest.mark.parametrize("size", [b"99999", b"-1", b"0x10", b"1e3", b"", b"4294967296", b"+4"])
def test_lying_sizes_in_the_archive(tmp_path: Path, size: bytes) -> None:
    good = bytearray(debs.deb([("./x", b"1")]))
    good[8 + 48 : 8 + 58] = size.ljust(10)
    with pytest.raises(PackageFileError):
        consume(tmp_path, bytes(good))


def test_lying_size_in_the_tar(tmp_path: Path) -> None:
    info = debs.header("./x")
    info.size = 1 << 30
    with pytest.raises(PackageFileError, match="cut short"):
        consume(tmp_path, debs.deb(data=info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))


@pytest.mark.parametrize(
    "members",
    [
        [],
        [b"debian-binary"],
        [b"data.tar", b"control.tar", b"debian-binary"],
        [b"debian-binary", b"data.tar", b"control.tar"],
        [b"debian-binary", b"control.tar"],
        [b"debian-binary", b"control.zip", b"data.zip"],
    ],
)
def test_members_in_another_order_or_missing(tmp_path: Path, members: list[bytes]) -> None:
    with pytest.raises(PackageFileError):
        consume(tmp_path, debs.ar([(name, b"2.0\n") for name in members]))


def test_more_members_than_any_package_has(tmp_path: Path) -> None:
    with pytest.raises(PackageFileError, match="more than"):
        consume(tmp_path, debs.ar([(b"debian-binary", b"2.0\n")] * 40))


def test_another_format_version(tmp_path: Path) -> None:
    data = debs.deb([]).replace(b"2.0\n", b"3.0\n", 1)
    with pytest.raises(PackageFileError, match="another package format"):
        consume(tmp_path, data)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    plain = bytearray(debs.tar([("./abc", b"")]))
    plain[2] = 0xFF
    plain[148:156] = b"        "
    plain[148:156] = f"{sum(plain[:512]):06o}\0 ".encode()
    with pytest.raises(InputError, match=r"UTF-8|damaged"):
        consume(tmp_path, debs.deb(data=bytes(plain)))


@pytest.mark.parametrize("name", [".wh.bin", ".wh..wh..opq", ".wh.."])
def test_names_that_would_delete_files_of_other_layers(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafePathError, match="whiteout"):
        build(tmp_path, [(f"./usr/{name}", b"")])


def test_maintainer_scripts_are_never_run_and_stay_out(tmp_path: Path) -> None:
    data = debs.deb([("./usr/bin/x", b"x")])
    assert b"touch /tmp/ran" in lzma.decompress(data[data.index(b"\xfd7zXZ") :][:4096], format=lzma.FORMAT_AUTO)
    layer = build(tmp_path, [("./usr/bin/x", b"x")])
    with igzip.open(layer) as plain:
        assert b"touch /tmp/ran" not in plain.read()


@pytest.mark.parametrize(
    "entries",
    [
        [("../etc/passwd", b"owned")],
        [debs.symlink("./opt/data", "/etc"), ("./opt/data/passwd", b"")],
        [debs.header("./dev/sda", tarfile.BLKTYPE)],
        [("./etc/x", b"1"), ("./etc/x", b"2")],
    ],
)
def test_a_hostile_package_leaves_the_store_empty(
    tmp_path: Path, entries: list[tarfile.TarInfo | tuple[str, bytes]]
) -> None:
    with pytest.raises(InputError):
        build(tmp_path, entries)
    assert not [path for path in (tmp_path / "store").rglob("*") if "blobs" in path.parts and path.is_file()]
    assert not list((tmp_path / "store" / "tmp").iterdir())


def build(tmp_path: Path, entries: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    """The base layer of a small Debian with one more package, written into a store."""
    packages = {**debs.python_base(), "demo": debs.deb(entries, name="demo")}
    lock, files = debs.lock_of(debs.deb_rows(packages)), debs.lay_out(tmp_path / "debs", packages)
    store = Store(tmp_path / "store").open_or_create()
    info = base_layer(lock, "linux/amd64", store=store, host=machine(tmp_path / "home"), events=SILENT, debs=files)
    return store.path(info.digest)
