"""Layers become folders: what survives, what does not, and that a folder is complete or absent."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from intermodal.errors import InputError, StoreError
from intermodal.oci.digest import Digest
from intermodal.oci.folder_once import folder_once
from intermodal.oci.layer_stream import Limits
from intermodal.oci.unpack import unpack_layer


class Blobs:
    """A store of loose files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        (self.folder / digest.hex).write_bytes(data)
        return digest

    def path(self, digest: Digest) -> Path:
        return self.folder / digest.hex


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    (tmp_path / "blobs").mkdir()
    return Blobs(tmp_path / "blobs")


def tar(*entries: tuple[str, bytes | None, int], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of files (with content) and folders (None)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data, mode in entries:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if data is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data or b""))
    return out.getvalue()


def unpack(blobs: Blobs, plain: bytes, root: Path, compress: Callable[[bytes], bytes] = gzip.compress) -> Path:
    return unpack_layer(blobs, blobs.put(compress(plain)), Digest.of(plain), root)


def modes(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): stat.S_IMODE(p.lstat().st_mode) for p in folder.rglob("*")}


def test_content_and_modes(blobs: Blobs, tmp_path: Path) -> None:
    plain = tar(
        ("./usr", None, 0o755),
        ("./usr/bin/tool", b"\x7fELF", 0o755),
        ("./etc/closed", b"", 0o000),
        ("./shared", None, 0o1777),
        ("./locked", None, 0o500),
        ("./locked/inside", b"x", 0o666),
        ("./setuid", b"", 0o6755),
    )
    folder = unpack(blobs, plain, tmp_path / "rootfs")
    assert folder == tmp_path / "rootfs" / Digest.of(plain).hex
    assert (folder / "usr/bin/tool").read_bytes() == b"\x7fELF"
    assert modes(folder) == {
        "usr": 0o755,
        "usr/bin": 0o755,
        "usr/bin/tool": 0o755,
        "etc": 0o755,
        "etc/closed": 0o400,  # the owner may always read
        "shared": 0o755,  # nobody else ever writes
        "locked": 0o700,  # the owner may always delete
        "locked/inside": 0o644,
        "setuid": 0o755,  # no privilege bit survives
    }


def test_umask_does_not_matter(blobs: Blobs, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = unpack(blobs, tar(("a/b", b"1", 0o644)), tmp_path / "rootfs")
    finally:
        os.umask(before)
    assert modes(folder) == {"a": 0o755, "a/b": 0o644}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_and_long_names_in_every_tar_format(blobs: Blobs, tmp_path: Path, form: int) -> None:
    deep = "/".join(["folder" * 5] * 7)  # 216 bytes: beyond ustar's name field
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        file = tarfile.TarInfo(f"{deep}/file")
        file.size = 3
        archive.addfile(file, io.BytesIO(b"abc"))
        for name, kind, target in (
            ("absolute", tarfile.SYMTYPE, "/etc/alternatives/x"),
            ("near", tarfile.SYMTYPE, "a/../b"),
            ("a/up", tarfile.SYMTYPE, "../near"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
        if form != tarfile.USTAR_FORMAT:  # its link field is too short for this one
            hard = tarfile.TarInfo("hard")
            hard.type, hard.linkname = tarfile.LNKTYPE, f"{deep}/file"
            archive.addfile(hard)
    folder = unpack(blobs, out.getvalue(), tmp_path / "rootfs")
    assert (folder / deep / "file").read_bytes() == b"abc"
    assert os.readlink(folder / "absolute") == "/etc/alternatives/x"
    assert os.readlink(folder / "a/up") == "../near"
    if form != tarfile.USTAR_FORMAT:
        assert (folder / "hard").samefile(folder / deep / "file")


def test_names_beyond_ascii(blobs: Blobs, tmp_path: Path) -> None:
    folder = unpack(blobs, tar(("größe/数", b"1", 0o644)), tmp_path / "rootfs")
    assert (folder / "größe" / "数").read_bytes() == b"1"


def test_many_gzip_members_of_any_size(blobs: Blobs, tmp_path: Path) -> None:
    files = [(f"f{n}", bytes([n]) * (n * 997), 0o644) for n in range(40)]

    def members(plain: bytes) -> bytes:
        cuts = [0, 1, 512, 513, 100_000, 300_001, len(plain)]
        return b"".join(gzip.compress(plain[a:b]) for a, b in itertools.pairwise(cuts))

    folder = unpack(blobs, tar(*files), tmp_path / "rootfs", members)
    assert {name: (folder / name).read_bytes() for name, _, _ in files} == {n: d for n, d, _ in files}


def test_second_call_only_looks(blobs: Blobs, tmp_path: Path) -> None:
    plain = tar(("a", b"1", 0o644))
    folder = unpack(blobs, plain, tmp_path / "rootfs")
    inode = (folder / "a").stat().st_ino
    for blob in blobs.folder.iterdir():
        blob.unlink()
    assert unpack_layer(blobs, Digest.of(b"gone"), Digest.of(plain), tmp_path / "rootfs") == folder
    assert (folder / "a").stat().st_ino == inode


@pytest.mark.parametrize("which", ["digest", "diff id"])
def test_wrong_digest_leaves_nothing(blobs: Blobs, tmp_path: Path, which: str) -> None:
    plain = tar(("a", b"1", 0o644))
    stored = gzip.compress(plain)
    digest, diff_id = Digest.of(stored), Digest.of(plain)
    if which == "digest":
        digest = Digest.of(b"other")
    else:
        diff_id = Digest.of(b"other")
    (blobs.folder / digest.hex).write_bytes(stored)
    with pytest.raises(StoreError, match=f"another {which}"):
        unpack_layer(blobs, digest, diff_id, tmp_path / "rootfs")
    assert [p.name for p in (tmp_path / "rootfs").iterdir()] == [f"{diff_id.hex}.lock"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stored: stored[: len(stored) // 2], "damaged"),
        (lambda _: b"not gzip at all" * 100, "not gzip"),
        (lambda stored: stored + b"rubbish", "damaged"),
        (lambda _: b"", "ends in the middle|damaged"),
        (lambda stored: stored[:-8] + b"\0" * 8, "damaged"),
    ],
)
def test_damaged_blob_is_an_error_and_leaves_nothing(
    blobs: Blobs, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    plain = tar(("a", os.urandom(5000), 0o644))
    with pytest.raises((StoreError, InputError), match=message):
        unpack_layer(blobs, blobs.put(damage(gzip.compress(plain))), Digest.of(plain), tmp_path / "rootfs")
    assert [p.suffix for p in (tmp_path / "rootfs").iterdir()] == [".lock"]


def test_bytes_after_the_end_of_the_archive_count_for_the_diff_id(blobs: Blobs, tmp_path: Path) -> None:
    plain = tar(("a", b"1", 0o644)) + bytes(10_240)
    assert (unpack(blobs, plain, tmp_path / "rootfs") / "a").read_bytes() == b"1"


def test_missing_blob_is_named(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot unpack layer"):
        unpack_layer(blobs, Digest.of(b"1"), Digest.of(b"2"), tmp_path / "rootfs")


def test_limits_in_entries_and_bytes(blobs: Blobs, tmp_path: Path) -> None:
    plain = tar(*((f"f{n}", b"", 0o644) for n in range(20)))
    digest = blobs.put(gzip.compress(plain))
    with pytest.raises(InputError, match="too many entries"):
        unpack_layer(blobs, digest, Digest.of(plain), tmp_path / "a", limits=Limits(entries=19))
    with pytest.raises(InputError, match="far more"):
        unpack_layer(blobs, digest, Digest.of(plain), tmp_path / "b", limits=Limits(tar_bytes=len(plain) - 1))
    unpack_layer(blobs, digest, Digest.of(plain), tmp_path / "c", limits=Limits(entries=20, tar_bytes=len(plain)))


def test_many_at_once_make_one_folder(blobs: Blobs, tmp_path: Path) -> None:
    plain = tar(*((f"d{n}/f", os.urandom(1000), 0o644) for n in range(300)))
    digest = blobs.put(gzip.compress(plain))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(unpack_layer(blobs, digest, Digest.of(plain), tmp_path / "r")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 6
    assert sum(1 for _ in found[0].rglob("f")) == 300


def test_folder_left_half_done_or_made_in_another_boot_is_made_again(tmp_path: Path) -> None:
    final = tmp_path / "x"
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "half").touch()
    final.mkdir()
    (final / "old").touch()
    (tmp_path / "x.lock").write_text("another boot")
    folder_once(final, lambda folder: (folder / "new").touch())
    assert [p.name for p in final.iterdir()] == ["new"]
    folder_once(final, lambda _: pytest.fail("it is finished"))


def test_interrupted_fill_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder_once(tmp_path / "x", fill)
    assert [p.name for p in tmp_path.iterdir()] == ["x.lock"]
