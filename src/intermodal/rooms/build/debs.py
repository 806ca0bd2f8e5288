"""A Debian package opened without trust: its control paragraph and its files, nothing ever run.

Takes a file and the digest the lock states for it; hands on `Deb`, whose entries have names that stay inside
the root.

Rules, in order:
1. The whole file is hashed before a byte of it is interpreted; other bytes than the lock's are an error.
2. Members are `debian-binary` ("2.0"), `control.tar…`, `data.tar…` in this order; later ones are ignored, as
   dpkg does.
3. Maintainer scripts (postinst and the like) are never run and never enter the image.
4. Names are relative and do not climb; of modes only "executable" counts, so setuid and setgid bits are
   dropped and named in `Deb.dropped`.
5. Symbolic links are rewritten to their shortest relative form; a target that climbs above the root is an
   error. So an unpacked tree means the same below any folder. Hard links must point at a file of the same
   package.

Spec: deb(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field

from intermodal.errors import DownloadError, PackageFileError, UnsafePathError
from intermodal.oci.digest import Digest
from intermodal.oci.tar_reader import Kind, TarEntry
from intermodal.rooms.build.debs_ar import ArMember, read_ar
from intermodal.rooms.build.debs_stream import Expander, Limits, tar_entries

MAX_CONTROL_BYTES = 16 << 20
SPECIAL_BITS = 0o6000  # setuid, setgid


class DebEntry(Struct, frozen=True):
    """One path of a package, relative to the root, without "./".

    `target` of a symbolic link is relative to the root as well (`link_text` turns it into what is stored); of
    a hard link it is the path of the other name.
    """

    path: str
    kind: Kind
    executable: bool = False
    target: str = ""


class Deb(Struct):
    """An open package; valid inside `with open_deb(…)`."""

    title: str
    control: str  # the control paragraph, as text
    md5sums: bytes  # as the package states them; b"" when it has none
    dropped: list[str] = field(default_factory=list)  # paths whose setuid or setgid bit was dropped
    _stream: BinaryIO | None = None
    _data: ArMember | None = None
    _limits: Limits = field(default_factory=Limits)

    def entries(self) -> Iterator[tuple[DebEntry, Iterator[bytes]]]:
        """Every path with its content in pieces; content that is not consumed is skipped.

        Raises:
            PackageFileError: the package is damaged, a bomb, or holds what no package needs.
            UnsafePathError: a name is absolute or climbs out, or a link points out of the root.
        """
        assert self._stream is not None
        assert self._data is not None
        seen: set[str] = set()
        for raw, pieces in tar_entries(
            _expander(self._stream, self._data, self._limits, self.title), self._limits, self.title
        ):
            entry = _judged(raw, self.title)
            if entry is None:
                continue
            if raw.kind == "file" and raw.mode & SPECIAL_BITS:
                self.dropped.append(entry.path)
            if entry.kind == "hardlink" and entry.target not in seen:
                raise PackageFileError(
                    f"{self.title} has a hard link to nothing", found=f"{entry.path} -> {entry.target}"
                )
            if entry.kind == "file":
                seen.add(entry.path)
            yield entry, pieces


@contextmanager
def open_deb(path: Path, digest: Digest, *, limits: Limits | None = None) -> Iterator[Deb]:
    """The package at `path`, proven to be the one the lock names.

    Args:
        path: a .deb file; closed when the block ends.
        digest: sha256 the whole file must have.
        limits: bounds on what it may expand to.

    Raises:
        DownloadError: the file has other bytes.
        PackageFileError: it is no Debian package, or damaged.
    """
    limits = limits or Limits()
    title = path.name
    with path.open("rb") as stream:
        found, size_bytes = Digest.of_stream(stream)
        if found != digest:
            raise DownloadError(
                f"{title} is not the package that the lock names",
                found=(f"sha256 {found.hex}", f"lock   {digest.hex}"),
                next="remove it from the cache and build again; if it comes back, distrust the mirror",
            )
        members = read_ar(stream, size_bytes, title)
        names = [member.name for member in members[:3]]
        if (
            len(names) < 3
            or names[0] != "debian-binary"
            or _stem(names[1]) != "control.tar"
            or _stem(names[2]) != "data.tar"
        ):
            raise PackageFileError(f"{title} is not a Debian package", found=f"members {', '.join(names) or 'none'}")
        stream.seek(members[0].offset)
        version = stream.read(min(members[0].size_bytes, 16))
        if not version.startswith(b"2."):
            raise PackageFileError(f"{title} has another package format", found=f"version {version!r}, 2.0 is known")
        control, md5sums = _read_control(stream, members[1], limits, title)
        yield Deb(title, control, md5sums, [], stream, members[2], limits)


def link_text(path: str, target: str) -> str:
    """What a symbolic link at `path` stores to mean `target`, both relative to the root.

    >>> link_text("usr/bin/python3", "usr/bin/python3.11")
    'python3.11'
    >>> link_text("lib64/ld.so.2", "lib/x86_64-linux-gnu/ld.so.2")
    '../lib/x86_64-linux-gnu/ld.so.2'
    >>> link_text("etc/mtab", "")
    '..'
    """
    here, there = path.split("/")[:-1], target.split("/") if target else []
    common = 0
    while common < min(len(here), len(there)) and here[common] == there[common]:
        common += 1
    return "/".join([".."] * (len(here) - common) + there[common:]) or "."


def _read_control(stream: BinaryIO, member: ArMember, limits: Limits, title: str) -> tuple[str, bytes]:
    bounds = Limits(min(MAX_CONTROL_BYTES, limits.expanded_bytes), 1000, limits.ratio)
    control, md5sums = b"", b""
    for entry, pieces in tar_entries(_expander(stream, member, bounds, title), bounds, title):
        name = entry.path.removeprefix("./")
        if name == "control":
            control = b"".join(pieces)
        elif name == "md5sums":
            md5sums = b"".join(pieces)
    try:
        text = control.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackageFileError(f"{title} has a control paragraph that is not UTF-8", found=str(error)) from error
    if not text.startswith("Package:") and "\nPackage:" not in text:
        raise PackageFileError(f"{title} has no control paragraph", found=f"{len(control)} bytes without Package:")
    return text.strip("\n") + "\n", md5sums


def _judged(raw: TarEntry, title: str) -> DebEntry | None:
    """The entry with safe names; None for the root itself."""
    path = _inside(raw.path, title, raw.path)
    if not path:
        return None
    target = ""
    if raw.kind == "symlink":
        target = _resolved(path, raw.target, title)
    elif raw.kind == "hardlink":
        target = _inside(raw.target, title, raw.path)
    return DebEntry(path, raw.kind, raw.kind == "file" and bool(raw.mode & 0o111), target)


def _inside(name: str, title: str, shown: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or any("\0" in part or len(part.encode()) > 255 for part in parts):
        raise UnsafePathError(
            f"{title} would write outside the image",
            found=f"entry {shown!r}",
            next="it is damaged or hostile: do not use it",
        )
    return "/".join(parts)


def _resolved(path: str, target: str, title: str) -> str:
    """Where a symbolic link points, from the root; lexically, because nothing is on disk."""
    where = [] if target.startswith("/") else path.split("/")[:-1]
    if not target or "\0" in target:
        raise UnsafePathError(f"{title} has a link to nowhere", found=f"{path} -> {target!r}")
    for part in target.split("/"):
        if part == "..":
            if not where:
                raise UnsafePathError(f"{title} has a link out of the image", found=f"{path} -> {target}")
            where.pop()
        elif part not in ("", "."):
            where.append(part)
    return "/".join(where)


def _stem(name: str) -> str:
    return name if name.endswith(".tar") else name.rpartition(".")[0]


class _Range:
    """The bytes of one member as a stream of their own."""

    def __init__(self, stream: BinaryIO, member: ArMember) -> None:
        self._stream, self._left = stream, member.size_bytes
        stream.seek(member.offset)

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data


def _expander(stream: BinaryIO, member: ArMember, limits: Limits, title: str) -> Expander:
    suffix = member.name.removeprefix(_stem(member.name))
    return Expander(_Range(stream, member), suffix, limits, title)
