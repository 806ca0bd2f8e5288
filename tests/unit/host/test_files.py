"""Who a file is, and writing so that readers never see half."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from intermodal.errors import StoreError
from intermodal.host.files import identities, identity, read_json, unchanged, write_atomically


def test_absence_is_part_of_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    seen = identities([path])
    assert seen == {str(path): None}
    assert unchanged(seen)
    path.touch()
    assert not unchanged(seen)


def test_another_file_under_the_same_name(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    seen = identities([path])
    other.write_text("two")
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert identity(path) is not None
    assert not unchanged(seen)


def test_a_write_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"[1]")
    write_atomically(path, b"[2]")
    assert read_json(path) == [2]
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_damaged_json_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff{")
    assert read_json(tmp_path / "a") is None
    assert read_json(tmp_path / "nowhere") is None


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_leaves_the_old_bytes_and_no_rubbish(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", small], check=True)
    try:
        write_atomically(small / "file", b"old")
        with pytest.raises(StoreError) as caught:
            write_atomically(small / "file", b"x" * (1 << 20))
        assert "the disk is full" in str(caught.value)
        assert (small / "file").read_bytes() == b"old"
        assert [p.name for p in small.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", small], check=True)
