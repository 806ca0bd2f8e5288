"""Digests: the names of stored bytes.

A `Digest` is `sha256:<64 hex>`; nothing else in this code base may stand for one. Only sha256 is accepted: an
unknown algorithm in somebody else's document is an error, never a skipped check.

Spec: OCI image-spec 1.1, "Digests".
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from intermodal.errors import InputError

CHUNK_BYTES = 1 << 20


class Digest(Struct, frozen=True, order=True):
    """sha256 of some bytes; `str(digest)` is the form used in documents."""

    hex: str

    def __post_init__(self) -> None:
        if len(self.hex) != 64 or not set(self.hex) <= set("0123456789abcdef"):
            raise InputError(f"not a sha256 digest: {self.hex[:80]!r}", found="64 lower-case hex digits expected")

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def short(self) -> str:
        """The first twelve hex digits, enough for people."""
        return self.hex[:12]

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest written as `sha256:<hex>`.

        Raises:
            InputError: another algorithm, or not 64 lower-case hex digits.
        """
        algorithm, _, digits = text.partition(":")
        if algorithm != "sha256":
            raise InputError(
                f"cannot use digest {text[:80]!r}", found=f"algorithm {algorithm[:20]!r}, only sha256 is accepted"
            )
        return cls(digits)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest of `data`.

        >>> str(Digest.of(b"{}"))
        'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'
        """
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def of_stream(cls, stream: BinaryIO) -> tuple[Digest, int]:
        """The digest and size in bytes of what `stream` still holds; the caller closes it."""
        hasher = hashlib.sha256()
        size_bytes = 0
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
            size_bytes += len(chunk)
        return cls(hasher.hexdigest()), size_bytes

    @classmethod
    def of_file(cls, path: Path) -> tuple[Digest, int]:
        """The digest and size in bytes of a file, read once in 1 MiB pieces."""
        with path.open("rb") as stream:
            return cls.of_stream(stream)
