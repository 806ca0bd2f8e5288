"""A large archive that is mapped into memory takes little of it while its streams are copied into a layer."""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import zlib
from pathlib import Path

import pytest

from intermodal.oci.entry import Deflated, Entry
from intermodal.oci.inflate import SPAN_BYTES, spans
from intermodal.oci.layer import LayerWriter

PLAIN_BYTES = 5 * SPAN_BYTES


def resident_bytes(path: Path) -> int:
    """How much of the file is in this process's memory now."""
    found = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1] in "0123456789abcdef" and "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="images are built on Linux; memory is counted in /proc")
def test_only_a_part_of_a_mapped_archive_is_held(tmp_path: Path) -> None:
    plain = os.urandom(PLAIN_BYTES)
    packer = zlib.compressobj(0, wbits=-15)
    path = tmp_path / "large.archive"
    path.write_bytes(packer.compress(plain) + packer.flush())
    most = 0
    written = 0

    class Watching:
        def write(self, data: bytes | memoryview) -> int:
            nonlocal most, written
            most = max(most, resident_bytes(path))
            written += len(data)
            return len(data)

    with path.open("rb") as stream:
        view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        archive = hashlib.sha256()
        for part in spans(view):
            archive.update(part)
        assert archive.digest() == hashlib.sha256(path.read_bytes()).digest()
        assert resident_bytes(path) < SPAN_BYTES
        content = Deflated(view, zlib.crc32(plain), PLAIN_BYTES, "sha256", hashlib.sha256(plain).digest(), "large")
        writer = LayerWriter(Watching())
        writer.splice([Entry.file("lib/large.so", content)])
        writer.finish()
    assert written > PLAIN_BYTES
    assert 0 < most <= SPAN_BYTES + (4 << 20)
