"""Layers: tar archives whose bytes depend on their entries alone, stored as many gzip members.

Takes entries (files, directories, links), hands on the stored bytes through a sink and a `LayerInfo`.

Rules, in order:
1. Paths are relative and stay below the root; nothing is named like a whiteout; no path comes twice. All entries of a
   call are checked before its first byte is written.
2. Parents are added, mode 0755; entries go in by path, hard links after everything else.
3. Owner 0, time 0, files 0644 or 0755, directories 0755 or 1777.
4. What is *packed* is cut into pieces of 4 MiB of tar bytes, one gzip member each, by the pinned encoder.
5. What is *spliced* is copied: our tar header as a gzip member, then the deflate stream as it came, between a gzip head
   and tail of ours. The stream must end exactly where it is said to, and length, CRC and hash must agree.
6. Contents are streamed; memory does not grow with a file's size.

It does not decide what goes into which layer, and does not name or store the result.

Spec: OCI image-spec 1.1, "Image Layer Filesystem Changeset"; "Layer DiffID".
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from intermodal.errors import DuplicatePathError, IntermodalError, UnsafePathError
from intermodal.oci import member, tarheader
from intermodal.oci.blob import Hashed
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.oci.entry import Deflated, Entry, check_path
from intermodal.oci.inflate import broken, inflate, spans, verified

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_HEADERS_MAX = 4096  # the encoder works on one big integer: keep it small
_OUT_BYTES = 256 << 10
_KINDS = {
    "file": tarheader.FILE,
    "hardlink": tarheader.HARDLINK,
    "symlink": tarheader.SYMLINK,
    "directory": tarheader.DIRECTORY,
}
Tap = Callable[[Entry, bytes], None]


class Sink(Protocol):
    """Where stored bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of `data`."""


def write_layer(entries: Iterable[Entry], sink: Sink, *, pool: Executor | None = None) -> LayerInfo:
    """The identity of a packed layer whose bytes depend only on `entries`.

    Args:
        entries: what to store, in any order. Missing parents are added, mode 0755.
        sink: written once from its current position; the caller closes it.
        pool: threads that compress pieces side by side; the bytes are the same without.

    Returns:
        Digest and size of what was written, diff id and size of the plain tar.

    Raises:
        UnsafePathError: an entry climbs out of the root or is named like a whiteout; nothing has been written.
        DuplicatePathError: two entries share a path; nothing has been written.

    Spec: OCI image-spec 1.1, "Image Layer Filesystem Changeset"; "Layer DiffID".
    """
    writer = LayerWriter(sink, pool=pool)
    writer.pack(entries)
    return writer.finish()


class LayerWriter:
    """One layer being written: any number of `splice` and `pack`, then `finish`."""

    def __init__(self, sink: Sink, *, pool: Executor | None = None) -> None:
        self._sink = sink if isinstance(sink, Hashed) else Hashed(sink.write)  # hash what is stored only once
        assert not self._sink.size_bytes, "a layer is everything that its sink takes"
        self._pool = pool
        self._tar = hashlib.sha256()
        self._tar_bytes = 0
        self._known: dict[str, Entry] = {}
        self._headers = bytearray()
        self._piece = bytearray()
        self._out = bytearray()
        self._running: deque[Future[bytes]] = deque()

    def pack(self, entries: Iterable[Entry]) -> None:
        """Store entries with contents of any kind, compressed here.

        Raises:
            UnsafePathError: see rule 1; this call has written nothing.
            DuplicatePathError: a path of this or an earlier call comes again; this call has written nothing.
            IntermodalError: a content is longer or shorter than its entry says.
        """
        ordered = self._admit(entries)
        self._flush_headers()
        for entry in ordered:
            self._pack_bytes(self._header(entry))
            if entry.kind == "file":
                done = 0
                for chunk in _chunks(entry):
                    done += len(chunk)
                    if done > entry.size_bytes:
                        break
                    self._pack_bytes(chunk)
                if done != entry.size_bytes:
                    raise IntermodalError(
                        f"{entry.path} changed while it was being stored",
                        found=f"{entry.size_bytes} bytes expected, {'more' if done > entry.size_bytes else done} found",
                        next="run the same command again",
                    )
                self._pack_bytes(tarheader.padding(entry.size_bytes))

    def splice(self, entries: Iterable[Entry], *, tap: Tap | None = None) -> None:
        """Store entries whose contents are deflate streams already; directories and empty files may be among them.

        Args:
            entries: as for `pack`, contents `Deflated` or empty.
            tap: called with every entry that has `tapped` set, and its plain bytes, once they are verified.

        Raises:
            UnsafePathError: see rule 1; this call has written nothing.
            DuplicatePathError: a path of this or an earlier call comes again; this call has written nothing.
            PackageFileError: a stream is not what its directory promises; the layer must be thrown away.
        """
        ordered = self._admit(entries)
        self._flush_piece()
        for entry in ordered:
            self._add_header(self._header(entry))
            if isinstance(entry.content, Deflated) and entry.size_bytes:
                self._flush_headers()
                plain = self._splice_stream(entry, entry.content, keep=tap is not None and entry.tapped)
                self._add_header(tarheader.padding(entry.size_bytes))
                if tap is not None and plain is not None:
                    tap(entry, plain)
            elif entry.size_bytes:
                raise TypeError(f"{entry.path} has no deflate stream to splice")

    def finish(self) -> LayerInfo:
        """End the archive; digest, size, diff id and tar size of the layer."""
        end = bytes(2 * tarheader.BLOCK_BYTES)
        if self._piece:
            self._pack_bytes(end)
        else:
            self._add_header(end)
        self._flush_headers()
        self._flush_piece()
        self._flush_out()
        return LayerInfo(
            digest=self._sink.digest,
            diff_id=Digest(self._tar.hexdigest()),
            size_bytes=self._sink.size_bytes,
            tar_bytes=self._tar_bytes,
        )

    def _admit(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries with their missing parents, checked, in the order they are stored in."""
        known = dict(self._known)
        listed = list(entries)
        for entry in listed:
            check_path(entry)
            if entry.path in known:
                raise DuplicatePathError(
                    f"two sources want {entry.path} in the image", found="the same layer holds it twice"
                )
            known[entry.path] = entry
        parents: dict[str, Entry] = {}
        for entry in listed:
            folder = entry.path.rpartition("/")[0]
            while folder:
                above = known.get(folder)
                if above is None:
                    known[folder] = parents[folder] = Entry.directory(folder)
                elif above.kind != "directory":
                    raise UnsafePathError(
                        f"cannot store {entry.path}", found=f"{folder} is a {above.kind}, not a directory"
                    )
                elif folder in parents or folder in self._known:
                    break  # its own parents have been seen to
                folder = folder.rpartition("/")[0]
            if entry.kind == "hardlink":
                self._check_link(entry, known)
        self._known = known
        return sorted([*listed, *parents.values()], key=lambda entry: (entry.kind == "hardlink", entry.path))

    @staticmethod
    def _check_link(entry: Entry, known: dict[str, Entry]) -> None:
        linked = known.get(entry.target)
        if linked is None or linked.kind != "file":
            raise UnsafePathError(f"cannot link {entry.path}", found=f"{entry.target} is no file of the same layer")

    def _header(self, entry: Entry) -> bytes:
        # Some readers give a hard link's mode to the file itself.
        mode = self._known[entry.target].mode if entry.kind == "hardlink" else entry.mode
        return tarheader.header(
            entry.path, kind=_KINDS[entry.kind], mode=mode, size_bytes=entry.size_bytes, target=entry.target
        )

    def _write(self, data: bytes | memoryview) -> None:
        if len(data) >= _OUT_BYTES:
            self._flush_out()
            self._sink.write(data)
            return
        self._out += data  # thousands of small members: hash and write them together
        if len(self._out) >= _OUT_BYTES:
            self._flush_out()

    def _flush_out(self) -> None:
        if self._out:
            self._sink.write(bytes(self._out))
            self._out.clear()

    def _count(self, data: bytes) -> None:
        self._tar.update(data)
        self._tar_bytes += len(data)

    def _add_header(self, data: bytes) -> None:
        self._headers += data
        if len(self._headers) >= _HEADERS_MAX:
            self._flush_headers()

    def _flush_headers(self) -> None:
        if self._headers:
            data = bytes(self._headers)
            self._count(data)
            self._write(member.headers(data))
            self._headers.clear()

    def _pack_bytes(self, data: bytes) -> None:
        self._count(data)
        self._piece += data
        while len(self._piece) >= member.PIECE_BYTES:
            self._emit(bytes(self._piece[: member.PIECE_BYTES]))
            del self._piece[: member.PIECE_BYTES]

    def _flush_piece(self) -> None:
        if self._piece:
            self._emit(bytes(self._piece))
            self._piece.clear()
        while self._running:
            self._write(self._running.popleft().result())

    def _emit(self, piece: bytes) -> None:
        if self._pool is None:
            self._write(member.packed(piece))
            return
        self._running.append(self._pool.submit(member.packed, piece))
        while len(self._running) > 3 or (self._running and self._running[0].done()):
            self._write(self._running.popleft().result())

    def _splice_stream(self, entry: Entry, stream: Deflated, *, keep: bool) -> bytes | None:
        """Copy one stream between a gzip head and tail; its plain bytes when `keep`."""
        from isal import isal_zlib

        hasher = hashlib.new(stream.algorithm) if stream.algorithm else None
        kept: list[bytes] = []
        crc = size = 0
        for chunk in inflate(stream, entry.path):
            self._tar.update(chunk)
            if hasher is not None:
                hasher.update(chunk)
            crc = isal_zlib.crc32(chunk, crc)
            size += len(chunk)
            if keep:
                kept.append(chunk)
        self._tar_bytes += size
        if crc != stream.crc32:
            raise broken(stream, entry.path, "its CRC-32 is another than the archive says")
        if hasher is not None and hasher.digest() != stream.expected:
            raise broken(stream, entry.path, f"its {stream.algorithm} is another than RECORD says")
        self._out += member.HEAD
        for part in spans(stream.raw):
            self._write(part)
        self._out += member.tail(crc, size)
        return b"".join(kept) if keep else None


def _chunks(entry: Entry) -> Iterator[bytes]:
    """The plain content of a file entry, in pieces."""
    content = entry.content
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, Path):
        with content.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    elif isinstance(content, Deflated):
        yield from verified(content, entry.path)
    elif content is not None:
        yield from content()
