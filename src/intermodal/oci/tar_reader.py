"""Tar archives as a stream of entries, for layers that somebody else may have written.

Takes a source of uncompressed bytes, hands on one `TarEntry` after the other; the content of a regular file is
copied out before the next entry is asked for. Unlike `tarfile` it reads forward only, never holds more than one
header in memory, and takes nothing on trust: every number, checksum and length is checked against a limit.

Understands ustar, pax (path, linkpath, size) and GNU long names; refuses sparse files, multi-volume archives and
unknown types, because skipping what one does not understand gives another tree than the writer meant.

Spec: POSIX.1-2017 "ustar Interchange Format", "pax Extended Header"; OCI image-spec 1.1, "Image Layer Filesystem
Changeset".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from msgspec import Struct

from intermodal.errors import InputError, UnsafePathError

BLOCK = 512
MAX_PATH_BYTES = 4095  # PATH_MAX without its NUL: longer ones cannot be made on Linux
MAX_EXTENDED_BYTES = 1 << 20  # one pax header or GNU long name

Kind = Literal["file", "directory", "symlink", "hardlink", "device", "fifo"]

_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
}


_GLOBAL_NEVER = frozenset(("path", "linkpath", "size"))  # some readers would apply them to every entry


class Source(Protocol):
    """Uncompressed bytes, read forward."""

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer only at the end."""
        ...

    def skip(self, size: int) -> None:
        """Move on by `size` bytes."""
        ...


class TarEntry(Struct, frozen=True):
    """One entry as the archive states it: names are not cleaned, nothing is resolved."""

    path: str
    kind: Kind
    mode: int  # permission bits, 0..0o7777
    size_bytes: int  # of the content that follows; 0 for anything but a regular file
    target: str = ""  # of a link


def read_entries(source: Source) -> Iterator[TarEntry]:
    """The entries of an archive, in its order, until its end mark.

    The caller consumes exactly `size_bytes` of `source` for each file before asking for the next entry; padding is
    skipped here.

    Raises:
        InputError: a damaged or truncated header, an unknown type, a sparse file.
        UnsafePathError: a name that is too long, is no UTF-8, or holds a NUL.
    """
    pax: dict[str, bytes] = {}
    long_name = long_target = b""
    extended: set[bytes] = set()  # kinds of extended headers that await their entry
    while True:
        header = source.take(BLOCK)
        if len(header) < BLOCK:
            raise InputError("the layer's tar ends in the middle of a header", found=f"{len(header)} bytes of 512")
        if header == bytes(BLOCK):
            if extended:
                raise InputError("the layer's tar ends behind an extended header that belongs to no entry")
            return
        _verify_checksum(header)
        size = _number(header[124:136])
        flag = header[156:157]
        if flag in (b"x", b"g", b"L", b"K"):
            data = _extended(source, size)
            if flag in extended or (extended and b"x" in extended | {flag} and flag != b"g"):
                raise InputError("the layer's tar has two extended headers for one name", found=f"{flag!r}")
            extended |= {flag} - {b"g"}
            if flag in (b"L", b"K") and not data.rstrip(b"\0"):
                raise InputError("the layer's tar has an extended header with an empty name")
            if flag == b"L":
                long_name = data.rstrip(b"\0")
            elif flag == b"K":
                long_target = data.rstrip(b"\0")
            elif flag == b"x":
                pax = _parse_pax(data)
            elif flag == b"g" and not _GLOBAL_NEVER.isdisjoint(_parse_pax(data)):
                raise InputError(
                    "the layer's tar gives all entries one name, target or size", found="global pax header"
                )
            continue
        entry = _entry(header, flag, size, pax, long_name, long_target)
        pax, long_name, long_target, extended = {}, b"", b"", set()
        yield entry
        source.skip(-entry.size_bytes % BLOCK)


def _entry(
    header: bytes, flag: bytes, size: int, pax: dict[str, bytes], long_name: bytes, long_target: bytes
) -> TarEntry:
    """One header with its extensions, as a value."""
    if flag not in _KINDS:
        raise InputError("the layer holds a tar entry of a kind we do not unpack", found=f"type flag {flag!r}")
    if b"" in (pax.get("path"), pax.get("linkpath")):
        raise InputError("the layer's tar has an extended header with an empty name")
    if any(key.startswith("GNU.sparse") for key in pax):
        raise InputError("the layer holds a sparse file", found="pax records GNU.sparse.*")
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    name = pax.get("path") or long_name or name
    target = pax.get("linkpath") or long_target or header[157:257].split(b"\0", 1)[0]
    kind = _KINDS[flag]
    if kind == "file" and name.endswith(b"/"):
        kind = "directory"  # as the archives before ustar wrote them
    if "size" in pax:
        size = _decimal(pax["size"])
    if kind != "file" and size:
        raise InputError("the layer's tar gives content to an entry that has none", found=f"{kind} of {size} bytes")
    return TarEntry(_text(name), kind, _number(header[100:108]) & 0o7777, size, _text(target))


def _verify_checksum(header: bytes) -> None:
    """Refuse a header whose checksum is another: the stream is out of step or damaged."""
    stated = _number(header[148:156])
    if stated != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise InputError("the layer's tar has a header with a wrong checksum", found=f"stated {stated}")


def _number(field: bytes) -> int:
    """A numeric field: octal text, or GNU's base 256 for what is too large for it."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise InputError("the layer's tar holds a negative or oversized number", found=field.hex())
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    try:
        return int(text, 8) if text else 0
    except ValueError as error:
        raise InputError("the layer's tar holds something else than a number", found=repr(field)) from error


def _decimal(value: bytes) -> int:
    """A number of a pax record."""
    if not value.isdigit() or len(value) > 18:
        raise InputError("the layer's tar holds something else than a number", found=repr(value[:40]))
    return int(value)


def _extended(source: Source, size: int) -> bytes:
    """The content of a pax header or GNU long name, which must fit in memory."""
    if size > MAX_EXTENDED_BYTES:
        raise InputError("the layer's tar has an oversized extended header", found=f"{size} bytes")
    data = source.take(size)
    if len(data) < size:
        raise InputError("the layer's tar ends in the middle of an extended header")
    if source.take(-size % BLOCK).strip(b"\0"):  # some readers take a name up to its NUL, whatever its size
        raise InputError("the layer's tar has an extended header with bytes behind its end")
    return data


def _parse_pax(data: bytes) -> dict[str, bytes]:
    """The records of a pax header, each exactly as long as it says and closed by a line feed."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        stated, space, _ = data[position : position + 20].partition(b" ")
        length = _decimal(stated) if space else 0
        record = data[position + len(stated) + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if not length or position + length > len(data) or not equals or not value.endswith(b"\n"):
            raise InputError("the layer's tar has a damaged pax header", found=f"at byte {position}")
        records[key.decode("utf-8", "replace")] = value[:-1]
        position += length
    return records


def _text(name: bytes) -> str:
    """A name as text; only what can be a path on Linux."""
    if len(name) > MAX_PATH_BYTES:
        raise UnsafePathError("the layer holds a path that is too long", found=f"{len(name)} bytes")
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise UnsafePathError("the layer holds a name that is not UTF-8", found=repr(name[:80])) from error
    if "\0" in text:
        raise UnsafePathError("the layer holds a name with a NUL", found=repr(text[:80]))
    return text
