"""The entries of a package's tar member, streamed through bounded decompression.

Takes the compressed bytes as a stream; hands on `TarEntry` values with their content in pieces, so memory
does not grow with the package. Own code instead of `tarfile`, because that one reads extended headers of any
size into memory.

Rules, in order:
1. What comes out of a decompressor is counted: above `Limits.expanded_bytes`, or above `Limits.ratio` times
   what went in once 64 MiB are out, it is a bomb. A dictionary above 128 MiB is refused before it is
   allocated.
2. A header's checksum must hold; numbers are octal and not negative.
3. Types are those dpkg knows: file, hard link, symbolic link, directory, and GNU long names and long links of
   at most `MAX_NAME_BYTES`. Devices, pipes, sparse files and pax headers are errors.
4. Names are UTF-8.

Spec: deb(5), "data.tar"; POSIX.1-1988 ustar; GNU tar, "long names".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from intermodal.errors import PackageFileError

BLOCK_BYTES = 512
PIECE_BYTES = 1 << 20
MAX_NAME_BYTES = 4096
RATIO_FLOOR_BYTES = 64 << 20
XZ_MEMORY_BYTES = 128 << 20

EntryKind = Literal["file", "dir", "symlink", "hardlink"]
_KINDS: dict[bytes, EntryKind] = {b"0": "file", b"\0": "file", b"1": "hardlink", b"2": "symlink", b"5": "dir"}
_REFUSED = {b"3": "a character device", b"4": "a block device", b"6": "a named pipe", b"S": "a sparse file"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one package may bring."""

    expanded_bytes: int = 4 << 30
    entries: int = 200_000
    ratio: int = 400


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry as its header states it; the name is not yet judged."""

    name: str
    kind: EntryKind
    mode: int
    size_bytes: int
    target: str = ""  # of links


class Readable(Protocol):
    """Anything with a bounded `read`."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; b"" at the end."""
        ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """zlib with the interface of lzma: input it has not used yet is kept inside."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False  # the last answer was as long as allowed, so more may be waiting

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        assert max_length > 0
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece


class Expander:
    """What a compressed stream holds, never more than asked for and never more than `Limits` allow."""

    def __init__(self, source: Readable, suffix: str, limits: Limits, title: str) -> None:
        """Read `source` as `suffix` says: "" (plain), ".gz" or ".xz"."""
        self._source, self._limits, self._title = source, limits, title
        self._make = _decompressor(suffix, title)
        self._inner = self._make() if self._make else None
        self._pending = b""
        self.bytes_in = 0
        self.bytes_out = 0

    def read(self, size: int = -1, /) -> bytes:
        """Exactly `size` bytes unless the stream ends before.

        Raises:
            PackageFileError: damaged, cut short, or a bomb.
        """
        pieces: list[bytes] = []
        wanted = size
        while wanted > 0:
            piece = self._some(min(wanted, PIECE_BYTES))
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _some(self, size: int) -> bytes:
        if self._inner is None:
            piece = self._source.read(size)
            self.bytes_in += len(piece)
        else:
            piece = self._decompressed(size)
        self.bytes_out += len(piece)
        over = self.bytes_out > max(RATIO_FLOOR_BYTES, self.bytes_in * self._limits.ratio)
        if over or self.bytes_out > self._limits.expanded_bytes:
            raise PackageFileError(
                f"{self._title} expands beyond all bounds",
                found=f"{self.bytes_out} bytes out of {self.bytes_in}",
                next="it is damaged or hostile: do not use it",
            )
        return piece

    def _decompressed(self, size: int) -> bytes:
        import lzma

        assert self._inner is not None
        assert self._make is not None
        while True:
            if self._inner.eof:
                self._pending = self._inner.unused_data or self._refill()
                if not self._pending.strip(b"\0"):  # xz streams may be padded with zeros
                    return b""
                self._inner = self._make()
            if self._inner.needs_input and not self._pending:
                self._pending = self._refill()
                if not self._pending:
                    raise PackageFileError(
                        f"{self._title} is cut short", found="its compressed data has no end"
                    )
            data, self._pending = self._pending, b""
            try:
                piece = self._inner.decompress(data, size)
            except (zlib.error, lzma.LZMAError) as error:
                raise PackageFileError(f"{self._title} is damaged", found=str(error)) from error
            if piece:
                return piece

    def _refill(self) -> bytes:
        data = self._source.read(1 << 16)
        self.bytes_in += len(data)
        return data


def _decompressor(suffix: str, title: str) -> Callable[[], _Decompressor] | None:
    if suffix == "":
        return None
    if suffix == ".gz":
        return _Gunzip
    if suffix == ".xz":
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
    raise PackageFileError(
        f"{title} is compressed in a way that Debian 12 and 13 do not use",
        found=f"a member ending in {suffix}",
    )


def tar_entries(source: Readable, limits: Limits, title: str) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    """Every entry with its content in pieces; what is not consumed is skipped.

    Raises:
        PackageFileError: damaged, cut short, too many entries, or a type that no package needs.
    """
    long_name: str | None = None
    long_target: str | None = None
    count = 0
    while True:
        header = _exactly(source, BLOCK_BYTES, title)
        if header == bytes(BLOCK_BYTES):
            return
        count += 1
        if count > limits.entries:
            raise PackageFileError(f"{title} has too many entries", found=f"more than {limits.entries}")
        size = _checked_size(header, title)
        kind = header[156:157]
        if kind in (b"L", b"K"):
            if size > MAX_NAME_BYTES:
                raise PackageFileError(f"{title} has a name that is too long", found=f"{size} bytes")
            text = _text(_exactly(source, _padded(size), title)[:size].rstrip(b"\0"), title)
            long_name, long_target = (text, long_target) if kind == b"L" else (long_name, text)
            continue
        entry = _parse_header(header, size, long_name, long_target, title)
        long_name = long_target = None
        pieces = _content(source, entry.size_bytes, title)
        yield entry, pieces
        for _ in pieces:
            pass


def _content(source: Readable, size: int, title: str) -> Iterator[bytes]:
    left = size
    while left:
        piece = _exactly(source, min(left, PIECE_BYTES), title)
        left -= len(piece)
        if not left:
            _exactly(source, _padded(size) - size, title)
        yield piece


def _parse_header(header: bytes, size: int, name: str | None, target: str | None, title: str) -> TarEntry:
    code = header[156:157]
    if name is None:
        prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
        short = header[:100].split(b"\0", 1)[0]
        name = _text(prefix + b"/" + short if prefix else short, title)
    if target is None:
        target = _text(header[157:257].split(b"\0", 1)[0], title)
    kind = _KINDS.get(code)
    if kind is None:
        what = _REFUSED.get(code, f"an entry of type {code!r}")
        raise PackageFileError(
            f"{title} holds {what}", found=name, next="it is damaged or hostile: do not use it"
        )
    if kind != "file" and size:
        raise PackageFileError(f"{title} is damaged", found=f"{name} is a {kind} with content")
    if kind == "file" and name.endswith("/"):
        kind = "dir"
    return TarEntry(
        name, kind, _octal(header[100:108], title) & 0o7777, size, target if "link" in kind else ""
    )


def _checked_size(header: bytes, title: str) -> int:
    stated = _octal(header[148:156], title)
    if stated != sum(header) - sum(header[148:156]) + 8 * 32:
        raise PackageFileError(
            f"{title} is damaged", found=f"the checksum of a tar header is wrong: {header[:40]!r}"
        )
    return _octal(header[124:136], title)


def _octal(field: bytes, title: str) -> int:
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise PackageFileError(f"{title} is damaged", found=f"{field!r} is no octal number in a tar header")
    return int(digits or b"0", 8)


def _text(data: bytes, title: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackageFileError(f"{title} has a name that is not UTF-8", found=repr(data)) from error


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _exactly(source: Readable, size: int, title: str) -> bytes:
    data = source.read(size) if size else b""
    if len(data) != size:
        raise PackageFileError(
            f"{title} is cut short", found=f"{len(data)} of {size} bytes where more should follow"
        )
    return data
