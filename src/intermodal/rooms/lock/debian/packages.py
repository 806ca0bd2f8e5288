"""Package indexes of a Debian archive, parsed once and kept as small databases.

Takes the bytes of a verified `Packages.xz` (or .gz, or plain); hands on `PackageIndex`: the newest version of a name,
who provides a virtual name, which names there are.

An index is 50 MB of text and 60,000 paragraphs, of which a base needs 40: it is decompressed in pieces, cut down to
the fields we use and stored as SQLite under its own hash in `cache_dir/indexes`, so the next run opens it in
milliseconds.

Spec: Debian wiki, "DebianRepository/Format", "Packages Indices"; deb-control(5).
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from msgspec import Struct

from intermodal.errors import DownloadError
from intermodal.fetch import cache
from intermodal.host.held import Sweep, new_file
from intermodal.oci.digest import Digest

FORMAT = 1
MAX_TEXT_BYTES = 512 << 20
PIECE_BYTES = 1 << 20
FIELDS = ("Version", "Architecture", "Source", "Pre-Depends", "Depends", "Provides", "Filename", "Size", "SHA256")
_MARKS = tuple((name, f"\n{name}: ".encode()) for name in FIELDS)
_NAME = re.compile(r"^[a-z0-9][a-z0-9+.-]*$")
_PROVIDED = re.compile(r"([a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*(?:\(=\s*([^)\s]+)\s*\))?")


class Deb(Struct, frozen=True):
    """One version of one package, as the index describes it."""

    name: str
    version: str
    architecture: str
    source: str
    depends: str  # Pre-Depends and Depends, joined
    filename: str
    size_bytes: int
    digest: Digest
    archive: str = ""  # address of the archive it was found in

    @property
    def url(self) -> str:
        """Where it can be fetched."""
        return f"{self.archive}/{self.filename}"


class PackageIndex:
    """One parsed index; open it with `load`, close it when done."""

    def __init__(self, path: Path, archive: str) -> None:
        self.archive = archive
        self._database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)

    def close(self) -> None:
        """Give the database handle back."""
        self._database.close()

    def versions(self, name: str) -> list[Deb]:
        """Every version of a package in this index."""
        rows = self._database.execute("SELECT * FROM package WHERE name = ?", (name,))
        return [_deb(row, self.archive) for row in rows]

    def providers(self, name: str) -> list[tuple[str, str]]:
        """Packages that provide the virtual package `name`, with the version provided or ""."""
        query = "SELECT package, version FROM provides WHERE name = ? ORDER BY package"
        return list(self._database.execute(query, (name,)))

    def names(self) -> Iterator[str]:
        """The name of every package."""
        return (row[0] for row in self._database.execute("SELECT DISTINCT name FROM package"))


def _deb(row: tuple[str, ...], archive: str) -> Deb:
    name, version, architecture, source, pre, depends, filename, size, sha256 = row
    path = PurePosixPath(filename)
    if path.is_absolute() or ".." in path.parts or not filename.endswith(".deb") or not str(size).isdigit():
        raise DownloadError(f"the Debian index describes {name} wrongly", found=f"Filename: {filename[:120]!r}")
    joined = ", ".join(part for part in (pre, depends) if part)
    return Deb(
        name,
        version,
        architecture,
        source.partition(" ")[0],
        joined,
        filename,
        int(size),
        Digest(sha256),
        archive,
    )


def load(path: Path, archive: str) -> PackageIndex | None:
    """The index parsed earlier, or None when there is none or its database is damaged."""
    if not path.exists():
        return None
    try:
        index = PackageIndex(path, archive)
        index.versions("libc6")
    except sqlite3.DatabaseError:
        path.unlink(missing_ok=True)
        return None
    return index


def database_path(folder: Path, digest: Digest) -> Path:
    """Where the parsed form of the index with that hash lies."""
    return folder / f"packages-{FORMAT}-{digest.hex}.sqlite"


def store(data: bytes, name: str, path: Path) -> None:
    """Parse an index file into a database at `path`, which appears there whole or not at all.

    Args:
        data: the file, already verified by size and hash.
        name: its name, whose suffix says the compression.
        path: where the database goes.

    Raises:
        DownloadError: it does not decompress, or grows beyond 512 MiB.
        StoreError: the disk is full or the cache cannot be written.
    """
    with cache.storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        Sweep(dry_run=False).abandoned("temporary", path.parent, prefix := f".{path.name}.")
        handle, temporary = new_file(path.parent, prefix)
        try:
            database = sqlite3.connect(temporary)
            try:
                _fill(database, _paragraphs(data, name))
            except sqlite3.OperationalError as error:  # SQLite's form of a full disk
                raise OSError(28, str(error)) from error
            finally:
                database.close()
            os.fsync(handle)
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def _fill(database: sqlite3.Connection, paragraphs: Iterator[bytes]) -> None:
    database.executescript(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        "CREATE TABLE package (name, version, architecture, source, pre, depends, filename, size, sha256);"
        "CREATE TABLE provides (name, package, version);"
    )
    provided: list[tuple[str, str, str]] = []

    def rows() -> Iterator[tuple[str, ...]]:
        for paragraph in paragraphs:
            row = _row(paragraph)
            if row is None:
                continue
            name, values = row
            for match in _PROVIDED.finditer(values.pop(5)):
                provided.append((match[1], name, match[2] or ""))
            yield (name, *values)

    with database:
        database.executemany("INSERT INTO package VALUES (?,?,?,?,?,?,?,?,?)", rows())
        database.executemany("INSERT INTO provides VALUES (?,?,?)", provided)
        database.execute("CREATE INDEX package_name ON package (name)")
        database.execute("CREATE INDEX provides_name ON provides (name)")


def _row(paragraph: bytes) -> tuple[str, list[str]] | None:
    """The name and the values of FIELDS, or None when a paragraph is no package."""
    if not paragraph.startswith(b"Package: "):
        return None
    name = paragraph[9 : paragraph.find(b"\n")].decode("ascii", "replace").strip()
    if not _NAME.match(name):
        return None
    values = []
    for _, mark in _MARKS:
        start = paragraph.find(mark)
        if start < 0:
            values.append("")
            continue
        start += len(mark)
        end = paragraph.find(b"\n", start)
        values.append(paragraph[start : end if end >= 0 else None].decode("utf-8", "replace").strip())
    if not values[0] or len(values[8]) != 64:
        return None
    return name, values


def _paragraphs(data: bytes, name: str) -> Iterator[bytes]:
    rest = b""
    for piece in _decompressed(data, name):
        first, *others = (rest + piece).split(b"\n\n")
        if not others:
            rest = first
            continue
        yield first.lstrip(b"\n")
        yield from others[:-1]
        rest = others[-1]
    yield rest.lstrip(b"\n")


def _decompressed(data: bytes, name: str) -> Iterator[bytes]:
    import lzma
    import zlib

    if name.endswith(".xz"):
        decoder: lzma.LZMADecompressor | None = lzma.LZMADecompressor(memlimit=256 << 20)
    else:
        decoder = None
    inflater = zlib.decompressobj(47) if name.endswith(".gz") else None
    total = 0
    try:
        if decoder is not None:
            piece = decoder.decompress(data, PIECE_BYTES)
            while piece or not (decoder.eof or decoder.needs_input):
                total = _counted(total, piece, name)
                yield piece
                piece = b"" if decoder.eof else decoder.decompress(b"", PIECE_BYTES)
            if not decoder.eof:
                raise EOFError("it ends early")
        elif inflater is not None:
            while data and not inflater.eof:
                piece = inflater.decompress(data, PIECE_BYTES)
                data = inflater.unconsumed_tail
                total = _counted(total, piece, name)
                yield piece
        else:
            yield data
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise DownloadError(f"cannot decompress {name}", found=str(error)) from error


def _counted(total: int, piece: bytes, name: str) -> int:
    total += len(piece)
    if total > MAX_TEXT_BYTES:
        raise DownloadError(f"{name} grows beyond measure", found=f"more than {MAX_TEXT_BYTES} bytes")
    return total
