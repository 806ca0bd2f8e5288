"""Tar headers in one form only: ustar, with pax records where a name or size does not fit or is not ASCII.

Takes the few fields that our layers vary, hands on whole 512-byte blocks. Owner and group are 0, time is 0, user
names and device numbers are empty: nothing of the machine that writes can show.

Spec: POSIX.1-2001, pax, "ustar Interchange Format" and "pax Extended Header".
"""

from __future__ import annotations

BLOCK_BYTES = 512
_USTAR_SIZE_MAX = 0o77777777777
_AFTER_LINK = b"ustar\x0000" + bytes(32 + 32 + 8 + 8)
_IDS = b"0000000\0" * 2
_TIME = b"00000000000\0"

FILE, HARDLINK, SYMLINK, DIRECTORY, PAX = b"0", b"1", b"2", b"5", b"x"


def header(name: str, *, kind: bytes, mode: int, size_bytes: int = 0, target: str = "") -> bytes:
    """The blocks that precede an entry's content.

    Args:
        name: path in the layer; a directory's without its trailing slash.
        kind: `FILE`, `HARDLINK`, `SYMLINK` or `DIRECTORY`.
        mode: permission bits.
        size_bytes: length of the content that follows; 0 for all but files.
        target: where a link points.
    """
    raw = name.encode() + (b"/" if kind == DIRECTORY else b"")
    link = target.encode()
    records: dict[str, bytes] = {}
    prefix, short = _split(raw)
    if short is None:
        records["path"] = raw
        short = _ascii(raw)[:100]
    if len(link) > 100 or not link.isascii():
        records["linkpath"] = link
        link = _ascii(link)[:100]
    if size_bytes > _USTAR_SIZE_MAX:
        records["size"] = b"%d" % size_bytes
    block = _block(short, prefix, kind, mode, 0 if "size" in records else size_bytes, link)
    return _pax(records) + block if records else block


def padding(size_bytes: int) -> bytes:
    """The zeros that fill the last block of a content."""
    return bytes(-size_bytes % BLOCK_BYTES)


def _ascii(raw: bytes) -> bytes:
    return raw.decode().encode("ascii", "replace")


def _split(raw: bytes) -> tuple[bytes, bytes | None]:
    """Prefix and name as ustar stores them; None for the name when it needs a pax record."""
    if not raw.isascii():
        return b"", None
    if len(raw) <= 100:
        return b"", raw
    cut = raw.find(b"/", len(raw) - 101)
    if cut <= 0 or cut > 155 or cut == len(raw) - 1:
        return b"", None
    return raw[:cut], raw[cut + 1 :]


def _block(name: bytes, prefix: bytes, kind: bytes, mode: int, size_bytes: int, link: bytes) -> bytes:
    before = b"%s%07o\0%s%011o\0%s" % (name.ljust(100, b"\0"), mode, _IDS, size_bytes, _TIME)
    after = b"%s%s%s%s" % (kind, link.ljust(100, b"\0"), _AFTER_LINK, prefix.ljust(167, b"\0"))
    return b"%s%06o\0 %s" % (before, sum(before) + sum(after) + 8 * 0x20, after)


def _pax(records: dict[str, bytes]) -> bytes:
    body = b"".join(_record(key.encode(), value) for key, value in sorted(records.items()))
    return _block(b"PaxHeaders/entry", b"", PAX, 0o644, len(body), b"") + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3  # space, equals sign, newline
    total = size + len(str(size))
    total = size + len(str(total))  # its own digits count
    return b"%d %s=%s\n" % (total, key, value)
