"""Digests of large files, remembered by identity, so that a warm build does not read a 2 GB model again.

Only decides whether a build has to look again: layers are hashed while they are written, and everything is hashed in
full before it is pushed or signed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from intermodal.host import Host
from intermodal.host.files import identity, read_json, write_atomically
from intermodal.oci.digest import Digest

LARGE_BYTES = 1 << 20  # below this, reading is cheaper than remembering


def digest_of(path: Path, host: Host) -> tuple[Digest, int]:
    """The digest and size in bytes of a file; a large one is read only when it is another file than last time.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    before = identity(path)
    if before is None or before[1] < LARGE_BYTES:
        return Digest.of_file(path)
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]
    memory = host.cache_dir / "digests" / f"{name}.json"
    known = read_json(memory)
    if isinstance(known, dict) and known.get("identity") == list(before):
        return Digest.parse(str(known["digest"])), before[1]
    digest, size_bytes = Digest.of_file(path)
    if identity(path) == before:
        known = {"identity": before, "digest": str(digest)}
        write_atomically(memory, json.dumps(known).encode(), host.temporary_dir)
    return digest, size_bytes
