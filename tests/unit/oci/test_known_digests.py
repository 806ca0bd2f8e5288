"""A digest is remembered for as long as the file is the same file, whatever its mtime says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from intermodal.host import Host, read
from intermodal.oci import known_digests
from intermodal.oci.digest import Digest
from intermodal.oci.known_digests import LARGE_BYTES, digest_of


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return replace(read(), home=tmp_path, environment={})


def test_read_once(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * LARGE_BYTES)
    first = digest_of(path, host)
    assert first == (Digest.of(b"a" * LARGE_BYTES), LARGE_BYTES)
    monkeypatch.setattr(known_digests.Digest, "of_file", lambda _: pytest.fail("read again"))
    assert digest_of(path, host) == first


def test_same_size_and_mtime_but_other_bytes(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * LARGE_BYTES)
    before = path.stat()
    digest_of(path, host)
    path.write_bytes(b"b" * LARGE_BYTES)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert digest_of(path, host)[0] == Digest.of(b"b" * LARGE_BYTES)


def test_damaged_memory_is_no_harm(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * LARGE_BYTES)
    digest_of(path, host)
    for memory in (host.cache_dir / "digests").iterdir():
        memory.write_bytes(b'{"identity": ')
    assert digest_of(path, host)[0] == Digest.of(b"a" * LARGE_BYTES)


def test_small_files_leave_nothing_behind(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("yes\nno\n")
    assert digest_of(path, host)[0] == Digest.of(b"yes\nno\n")
    assert not (host.cache_dir / "digests").exists()
