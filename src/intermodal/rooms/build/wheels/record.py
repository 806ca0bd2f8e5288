"""RECORD: what a wheel promises of each of its files, and what an installed one says.

Takes the file's text, hands on promises by name; and the other way round for what was laid down.

Spec: PyPA "Recording installed projects", section "The RECORD file"; "Binary distribution format".
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Iterable, Mapping

from msgspec import Struct

from intermodal.rooms.build.wheels.directory import refused

ALGORITHMS = {"sha256": 32, "sha384": 48, "sha512": 64}


class Promise(Struct, frozen=True):
    """Hash and size of one file."""

    algorithm: str
    digest: bytes
    size_bytes: int | None

    def row(self) -> tuple[str, str]:
        """Hash and size as RECORD writes them."""
        text = base64.urlsafe_b64encode(self.digest).rstrip(b"=").decode()
        return f"{self.algorithm}={text}", "" if self.size_bytes is None else str(self.size_bytes)


def read_record(text: str, source: str) -> Mapping[str, Promise]:
    """The promises of a RECORD by file name; rows without a hash are left out.

    Raises:
        PackageFileError: a row that cannot be read, a weak hash, or two rows for one file.
    """
    promises: dict[str, Promise] = {}
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            if not row:
                continue
            if len(row) != 3:
                raise refused(source, f"a row of RECORD has {len(row)} fields: {','.join(row)[:120]!r}")
            name, spec, size = row
            if not spec:
                continue
            promise = Promise(*_hash(spec, name, source), _size(size, name, source))
            if promises.setdefault(name, promise) != promise:
                raise refused(source, f"RECORD has two rows for {name}")
    except csv.Error as error:
        raise refused(source, f"RECORD cannot be read: {error}") from error
    return promises


def write_record(rows: Iterable[tuple[str, Promise | None]]) -> bytes:
    """A RECORD of `rows`, sorted by name; None stands for RECORD itself."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    for name, promise in sorted(rows, key=lambda row: row[0]):
        writer.writerow((name, *(promise.row() if promise else ("", ""))))
    return out.getvalue().encode()


def _hash(spec: str, name: str, source: str) -> tuple[str, bytes]:
    algorithm, _, text = spec.partition("=")
    if algorithm not in ALGORITHMS:
        raise refused(source, f"RECORD vouches for {name} by {algorithm[:20]!r}; sha256 or better is needed")
    try:
        digest = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(source, f"RECORD has a damaged hash for {name}") from error
    if len(digest) != ALGORITHMS[algorithm]:
        raise refused(source, f"RECORD has a damaged hash for {name}")
    return algorithm, digest


def _size(text: str, name: str, source: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise refused(source, f"RECORD has a damaged size for {name}")
    return int(text)
