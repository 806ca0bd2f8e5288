"""A wheel, read without trusting what it says of itself.

Takes a .whl file, hands on its members as deflate streams with everything their archive promises about them; those
promises are kept or refused where the bytes are read (`oci.layer`).

Rules, in order:
1. It is one unambiguous zip archive of plain files (`directory.py`) within limits of entries, size and ratio.
2. There is one dist-info folder, named as the file is, with METADATA, WHEEL of a version we know, and RECORD.
3. Every file is in RECORD with a sha256 or better and the size that the archive gives; only RECORD itself and its
   signatures are exempt. Rows for files that are not there are ignored.

Spec: PyPA "Binary distribution format"; "Recording installed projects".
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from intermodal.errors import PackageFileError
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Deflated
from intermodal.oci.inflate import begins_with, spans, verified
from intermodal.rooms.build.wheels.directory import DEFLATED, Slot, read_directory, refused
from intermodal.rooms.build.wheels.record import Promise, read_record

MAX_METADATA_BYTES = 64 << 20
_EXEMPT = ("RECORD", "RECORD.jws", "RECORD.p7s")
_FILENAME = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")


class Member(Struct, frozen=True):
    """One file of a wheel; `promise` is what RECORD says of it, None for RECORD itself and its signatures."""

    slot: Slot
    promise: Promise | None
    source: str

    @property
    def name(self) -> str:
        """Its path in the archive."""
        return self.slot.name

    @property
    def deflated(self) -> bool:
        """Whether its bytes in the archive are a deflate stream that could be copied."""
        return self.slot.method == DEFLATED

    def stream(self) -> Deflated:
        """Its deflate stream with all that is promised about the plain bytes; stored bytes are framed as one."""
        slot = self.slot
        raw = slot.raw if self.deflated else memoryview(_framed(slot.raw))
        algorithm, expected = (self.promise.algorithm, self.promise.digest) if self.promise else ("", b"")
        return Deflated(raw, slot.crc32, slot.size_bytes, algorithm, expected, self.source)

    def read(self, limit: int = MAX_METADATA_BYTES) -> bytes:
        """The plain bytes, verified.

        Raises:
            PackageFileError: longer than `limit`, damaged, or not what the archive promises.
        """
        if self.slot.size_bytes > limit:
            raise refused(
                self.source, f"{self.name} has {self.slot.size_bytes} bytes, {limit} at most are read at once"
            )
        return b"".join(verified(self.stream(), self.name))

    def begins_with(self, prefix: bytes) -> bool:
        """Whether the plain bytes begin so; reads no further."""
        if not self.deflated:
            return bytes(self.slot.raw[: len(prefix)]) == prefix
        return begins_with(self.stream(), self.name, prefix)


class Wheel:
    """An open wheel; use as a context manager, its members are valid inside only."""

    def __init__(self, path: Path, filename: str = "") -> None:
        self.path = path
        self.source = filename or path.name
        self.members: Mapping[str, Member] = {}
        self.dist_info = ""  # "numpy-2.4.6.dist-info"
        self._view = memoryview(b"")

    def __enter__(self) -> Wheel:
        try:
            with self.path.open("rb") as stream:
                self._view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise PackageFileError(f"cannot read {self.source}", found=str(error)) from error
        slots = read_directory(self._view, self.source)
        self.dist_info = _dist_info(slots, self.source)
        self.members = _with_promises(slots, self.dist_info, self.source)
        self._check_version()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.members = {}
        self._view = memoryview(b"")  # the map closes with the last slice of it

    def digest(self) -> Digest:
        """The digest of the whole file."""
        hasher = hashlib.sha256()
        for part in spans(self._view):
            hasher.update(part)
        return Digest(hasher.hexdigest())

    @property
    def data_dir(self) -> str:
        """The folder of files that go elsewhere: "numpy-2.4.6.data"."""
        return self.dist_info.removesuffix(".dist-info") + ".data"

    def text(self, name: str) -> str | None:
        """A file of the dist-info folder as text; None when the wheel has none.

        Raises:
            PackageFileError: it is damaged or not UTF-8.
        """
        member = self.members.get(f"{self.dist_info}/{name}")
        if member is None:
            return None
        try:
            return member.read().decode()
        except UnicodeDecodeError as error:
            raise refused(self.source, f"{member.name} is not UTF-8") from error

    def _check_version(self) -> None:
        text = self.text("WHEEL")
        if text is None or self.text("METADATA") is None:
            raise refused(self.source, f"{self.dist_info} has no {'METADATA' if text is not None else 'WHEEL'}")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        version = fields.get("Wheel-Version", "").strip()
        if version.partition(".")[0] != "1":
            raise refused(self.source, f"wheel format {version or '(none)'}; only 1.x is known")
        if fields.get("Root-Is-Purelib", "").strip().lower() not in ("true", "false"):
            raise refused(self.source, "its WHEEL file has no Root-Is-Purelib")


def normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _framed(raw: memoryview) -> bytes:
    """Stored bytes as a deflate stream of stored blocks."""
    parts: list[bytes | memoryview] = []
    for start in range(0, max(len(raw), 1), 65535):
        block = raw[start : start + 65535]
        parts += (struct.pack("<BHH", start + 65535 >= len(raw), len(block), len(block) ^ 0xFFFF), block)
    return b"".join(parts)


def _dist_info(slots: list[Slot], source: str) -> str:
    """The one dist-info folder, which bears the name and version of the file."""
    match = _FILENAME.fullmatch(source)
    if match is None:
        raise refused(source, "its name is not that of a wheel")
    found = {top for top in (slot.name.partition("/")[0] for slot in slots) if top.endswith(".dist-info")}
    if len(found) != 1:
        raise refused(source, f"{len(found)} dist-info folders, one is expected")
    folder = found.pop()
    name, _, version = folder.removesuffix(".dist-info").partition("-")
    if normalise(name) != normalise(match["name"]) or not _same_version(version, match["version"]):
        raise refused(source, f"{folder} belongs to another distribution or version")
    return folder


def _same_version(one: str, other: str) -> bool:
    if one == other or one.replace("_", "-") == other.replace("_", "-"):
        return True
    from packaging.version import InvalidVersion, Version

    try:
        return Version(one.replace("_", "-")) == Version(other.replace("_", "-"))
    except InvalidVersion:
        return False


def _with_promises(slots: list[Slot], dist_info: str, source: str) -> Mapping[str, Member]:
    record = next((slot for slot in slots if slot.name == f"{dist_info}/RECORD"), None)
    if record is None:
        raise refused(source, f"{dist_info} has no RECORD")
    try:
        promises = read_record(Member(record, None, source).read().decode(), source)
    except UnicodeDecodeError as error:
        raise refused(source, "RECORD is not UTF-8") from error
    exempt = {f"{dist_info}/{name}" for name in _EXEMPT}
    members: dict[str, Member] = {}
    for slot in slots:
        promise = promises.get(slot.name)
        if slot.name not in exempt:
            if promise is None:
                raise refused(source, f"RECORD does not vouch for {slot.name}")
            if promise.size_bytes not in (None, slot.size_bytes):
                raise refused(source, f"{slot.name} has {slot.size_bytes} bytes, RECORD says {promise.size_bytes}")
        members[slot.name] = Member(slot, None if slot.name in exempt else promise, source)
    return members
