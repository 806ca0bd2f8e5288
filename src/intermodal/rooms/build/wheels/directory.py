"""The members of a zip archive, taken only when its two sets of headers tell the same story.

Takes the bytes of an archive, hands on slices of it; nothing is inflated here. An archive that two readers could
understand differently (prepended data, overlapping members, another name in the local header) is refused, because the
one who looked at it and the one who runs it may be two.

Spec: PKWARE APPNOTE 6.3, "Local file header", "Central directory structure", "Zip64 extended information".
"""

from __future__ import annotations

import stat
import struct

from msgspec import Struct

from intermodal.errors import PackageFileError

MAX_ENTRIES = 200_000
MAX_EXPANDED_BYTES = 16 << 30
MAX_RATIO = 200  # counted once an archive expands to more than `_RATIO_FROM_BYTES`
MAX_NAME_BYTES = 1024
STORED, DEFLATED = 0, 8
_RATIO_FROM_BYTES = 64 << 20
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4sBBHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_FULL = 0xFFFFFFFF
_ENCRYPTED = 0x2041  # encrypted, strongly encrypted, masked directory
_LATER = 0x0008  # sizes follow the data: the local header may hold zeros
_UTF8 = 0x0800
_NEXT = "take another version or another index; if it is still so, its publisher has to repair it"


class Slot(Struct, frozen=True):
    """One member: where its bytes lie and what the archive says of them."""

    name: str
    raw: memoryview  # as stored
    method: int
    crc32: int
    size_bytes: int  # plain
    executable: bool


class _Row(Struct, frozen=True):
    """One row of the central directory."""

    name: bytes
    flags: int
    method: int
    crc32: int
    packed: int
    plain: int
    start: int
    external: int


def refused(source: str, why: str) -> PackageFileError:
    """An archive that will not be used, and why."""
    return PackageFileError(f"cannot use {source}", found=why, next=_NEXT)


def read_directory(view: memoryview, source: str) -> list[Slot]:
    """The files of the archive in `view`, in the order of its directory; folders are left out.

    Raises:
        PackageFileError: it is damaged, ambiguous, encrypted, too large, or names something but plain files.
    """
    try:
        return _read(view, source)
    except (struct.error, IndexError) as error:
        raise refused(source, f"its zip directory is damaged ({error})") from error


def _read(view: memoryview, source: str) -> list[Slot]:
    position, size, count = _find(view, source)
    if count > MAX_ENTRIES:
        raise refused(source, f"{count} entries, at most {MAX_ENTRIES} are accepted")
    directory_start, end = position, position + size
    slots: list[Slot] = []
    spans: list[tuple[int, int]] = []
    seen: set[str] = set()
    expanded = 0
    for _ in range(count):
        row, position = _row(view, position, source)
        name = _name(row, source)
        if name in seen:
            raise refused(source, f"{name} is in it twice")
        seen.add(name)
        expanded += row.plain
        data = _data_start(view, row, name, source)
        spans.append((row.start, data + row.packed))
        if name.endswith("/"):
            if row.plain:
                raise refused(source, f"{name} is a folder with content")
            continue
        slots.append(_slot(view[data : data + row.packed], row, name, source))
    if position != end:
        raise refused(source, "its directory has another length than it says")
    if expanded > MAX_EXPANDED_BYTES or (expanded > _RATIO_FROM_BYTES and expanded > MAX_RATIO * len(view)):
        raise refused(source, f"it expands from {len(view)} to {expanded} bytes")
    _check_spans(spans, directory_start, source)
    _check_nesting(slots, source)
    return slots


def _check_spans(spans: list[tuple[int, int]], directory_start: int, source: str) -> None:
    spans.sort()
    if spans and spans[0][0] != 0:
        raise refused(source, "something precedes its first member")
    limits = [start for start, _ in spans[1:]] + [directory_start]
    if any(stop > limit for (_, stop), limit in zip(spans, limits, strict=False)):
        raise refused(source, "two of its members overlap")


def _check_nesting(slots: list[Slot], source: str) -> None:
    names = {slot.name for slot in slots}
    for name in names:
        folder = name.rpartition("/")[0]
        while folder:
            if folder in names:
                raise refused(source, f"{folder} is a file and a folder")
            folder = folder.rpartition("/")[0]


def _find(view: memoryview, source: str) -> tuple[int, int, int]:
    """Where the directory starts, its size, and its number of rows."""
    lowest = max(0, len(view) - _END.size - 0xFFFF)
    tail = bytes(view[lowest:])
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        raise refused(source, "it is no zip archive, or a truncated one")
    end = lowest + at
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(view, end)
    if end + _END.size + comment != len(view):
        raise refused(source, "something follows its end")
    if count == 0xFFFF or size == _FULL or start == _FULL:
        return _find64(view, end, source)
    if disk or first_disk or here != count or start + size != end:
        raise refused(source, "its directory is not where it says")
    return start, size, count


def _find64(view: memoryview, end: int, source: str) -> tuple[int, int, int]:
    signature, disk, record, disks = _LOCATOR.unpack_from(view, end - _LOCATOR.size)
    if signature != b"PK\6\7" or disk or disks != 1:
        raise refused(source, "its zip64 directory is damaged")
    signature, length, _, _, disk, first_disk, here, count, size, start = _END64.unpack_from(view, record)
    closed = record + 12 + length == end - _LOCATOR.size and start + size == record
    if signature != b"PK\6\6" or disk or first_disk or here != count or not closed:
        raise refused(source, "its zip64 directory is not where it says")
    return start, size, count


def _row(view: memoryview, position: int, source: str) -> tuple[_Row, int]:
    """The row at `position`, and where the next one starts."""
    signature, _, _, _, flags, method, _, _, crc, packed, plain, n, x, c, disk, _, external, start = (
        _CENTRAL.unpack_from(view, position)
    )
    if signature != b"PK\1\2" or disk:
        raise refused(source, "its zip directory is damaged")
    position += _CENTRAL.size
    name = bytes(view[position : position + n])
    if x and _FULL in (packed, plain, start):
        wide = iter(_wide(view[position + n : position + n + x]))
        plain = next(wide, plain) if plain == _FULL else plain
        packed = next(wide, packed) if packed == _FULL else packed
        start = next(wide, start) if start == _FULL else start
    return _Row(name, flags, method, crc, packed, plain, start, external), position + n + x + c


def _wide(extra: memoryview) -> list[int]:
    """The 64-bit numbers of a zip64 extra field."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, position)
        if tag == 1:
            count = min(length, len(extra) - position - 4) // 8
            return list(struct.unpack_from(f"<{count}Q", extra, position + 4))
        position += 4 + length
    return []


def _name(row: _Row, source: str) -> str:
    """The member's name, once it is one that can only mean one path below the root."""
    shown = row.name[:120].decode("utf-8", "replace")
    try:
        name = row.name.decode("utf-8" if row.flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        try:
            name = row.name.decode()  # older tools forget the flag
        except UnicodeDecodeError as error:
            raise refused(source, f"{shown!r} is not UTF-8") from error
    parts = name.removesuffix("/").split("/")
    if not name or len(row.name) > MAX_NAME_BYTES or "" in parts or "." in parts or ".." in parts:
        raise refused(source, f"the name {shown!r} is absolute, climbs, or is too long")
    if "\\" in name or "\0" in name or ":" in parts[0] or not name.isprintable():
        raise refused(source, f"the name {shown!r} can be read in two ways")
    if any(part.startswith(".wh.") for part in parts):
        raise refused(source, f"the name {shown!r} would delete files of other layers (whiteout)")
    return name


def _data_start(view: memoryview, row: _Row, name: str, source: str) -> int:
    """Where a member's bytes begin, once its local header agrees with the directory."""
    signature, _, flags, method, _, _, crc, packed, plain, n, x = _LOCAL.unpack_from(view, row.start)
    at = row.start + _LOCAL.size
    if signature != b"PK\3\4" or bytes(view[at : at + n]) != row.name or method != row.method:
        raise refused(source, f"{name}: its two headers disagree")
    if (flags | row.flags) & _ENCRYPTED:
        raise refused(source, f"{name} is encrypted")
    if _FULL in (packed, plain):
        wide = _wide(view[at + n : at + n + x])
        if len(wide) >= 2:
            plain, packed = wide[:2]
    later = bool(flags & _LATER) and not (crc or packed or plain)
    if not later and (crc, packed, plain) != (row.crc32, row.packed, row.plain):
        raise refused(source, f"{name}: its two headers disagree")
    if at + n + x + row.packed > len(view):
        raise refused(source, f"{name} is cut off")
    return int(at + n + x)


def _slot(raw: memoryview, row: _Row, name: str, source: str) -> Slot:
    if row.method not in (STORED, DEFLATED):
        raise refused(source, f"{name} is compressed by method {row.method}; only 0 and 8 are accepted")
    if row.method == STORED and row.packed != row.plain:
        raise refused(source, f"{name}: its two sizes disagree")
    mode = row.external >> 16  # tools on Windows write one as well, and pip takes it from any of them
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise refused(source, f"{name} is no plain file")
    return Slot(name, raw, row.method, row.crc32, row.plain, stat.S_ISREG(mode) and bool(mode & 0o111))
