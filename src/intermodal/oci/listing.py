"""Everything an image says, one value per fact: documents, layers, entries with all their fields, gzip members.

Takes a stored manifest, hands on an `ImageListing`; `compare.py` explains two of them. A listing holds no contents,
only their hashes, so that one can be kept beside the code and still say which entry of which layer has changed.

Every layer is verified against its digest and diff id while it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from intermodal.errors import StoreError
from intermodal.oci.descriptor import LAYER_COMPRESSION, Compression, Descriptor
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.oci.layer_stream import LayerStream
from intermodal.oci.layout import Store
from intermodal.oci.manifest import parse_descriptor
from intermodal.oci.tar_reader import BLOCK, TarEntry, read_entries


class ListedEntry(Struct, frozen=True):
    """One entry of a layer, as its tar states it."""

    path: str
    kind: str
    mode: str  # octal: "0644"
    owner: str  # numbers: "0:0"
    names: str  # the owner's, "user:group"; ":" in our layers
    mtime: int  # seconds since the epoch
    size: int  # bytes of the content
    target: str  # of a link
    content: str  # sha256 of a file's content, "" for all else
    header: str  # first 16 hex digits of the sha256 of all header blocks, for what the other fields do not show
    tar_offset: int  # where its headers begin


class Member(Struct, frozen=True):
    """One gzip member: the tar bytes it holds, and how they are stored."""

    tar_offset: int
    stored: int  # bytes, head and tail included
    digest: str  # first 16 hex digits of the sha256 of the stored bytes


class LayerListing(Struct, frozen=True):
    """One layer; without entries when it was not read."""

    title: str
    digest: str
    diff_id: str
    size: int
    entries: tuple[ListedEntry, ...] = ()
    members: tuple[Member, ...] = ()


class ImageListing(Struct, frozen=True):
    """One image of one platform."""

    digest: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    layers: tuple[LayerListing, ...] = field(default_factory=tuple)


Keep = Callable[[TarEntry, bytes], None]
_KEPT_BYTES = 64 << 20  # files above it are never handed to a `Keep`


def list_image(
    store: Store,
    descriptor: Descriptor,
    *,
    known: Collection[Digest] = (),
    wanted: Callable[[str], bool] = lambda _: False,
    keep: Keep = lambda _entry, _data: None,
) -> ImageListing:
    """What an image of one platform holds.

    Args:
        store: where it lies.
        descriptor: its manifest.
        known: layers that need not be read, because the other side has the very same.
        wanted: whether the content of the file of this path is asked for.
        keep: takes each such content, lowest layer first; unproven until this function returns.

    Raises:
        StoreError, InputError: a document or layer is damaged, missing, or no gzip-compressed tar.
    """
    manifest = store.manifest(descriptor)
    config = store.config(descriptor)
    layers = [parse_descriptor(item) for item in manifest["layers"]]
    diff_ids = config["rootfs"]["diff_ids"]
    if len(diff_ids) != len(layers):
        raise StoreError("an image has another number of layers than diff ids", found=f"{len(layers)}, {len(diff_ids)}")
    steps = [step for step in config.get("history", []) if not step.get("empty_layer")]
    titles = [str(step.get("created_by", "")) for step in steps] if len(steps) == len(layers) else [""] * len(layers)
    return ImageListing(
        digest=str(descriptor.digest),
        manifest=manifest,
        config=config,
        layers=tuple(
            LayerListing(title, str(layer.digest), diff_id, layer.size_bytes)
            if layer.digest in known
            else list_layer(
                store.path(layer.digest),
                title,
                layer.digest,
                Digest.parse(diff_id),
                compression=LAYER_COMPRESSION.get(layer.media_type, "gzip"),
                wanted=wanted,
                keep=keep,
            )
            for title, layer, diff_id in zip(titles, layers, diff_ids, strict=True)
        ),
    )


def list_layer(
    path: Path,
    title: str,
    digest: Digest,
    diff_id: Digest,
    *,
    compression: Compression = "gzip",
    wanted: Callable[[str], bool] = lambda _: False,
    keep: Keep = lambda _entry, _data: None,
) -> LayerListing:
    """What a stored layer holds; members only of a gzip one.

    Raises:
        StoreError, InputError: it is damaged, or not the layer that the digests name.
    """
    try:
        with path.open("rb") as stored:
            stream = LayerStream(stored, compression=compression)
            entries = tuple(_entries(stream, wanted, keep))
            stream.finish(digest, diff_id)
        members = tuple(_members(path)) if compression == "gzip" else ()
        size_bytes = path.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot read layer {digest.short}", found=error.strerror or str(error)) from error
    return LayerListing(title, str(digest), str(diff_id), size_bytes, entries, members)


class _Headers:
    """A source that keeps what is taken from it, which is headers, and knows where it stands."""

    def __init__(self, stream: LayerStream) -> None:
        self._stream = stream
        self.taken = b""
        self.position = 0
        self.start = 0

    def take(self, size: int) -> bytes:
        data = self._stream.take(size)
        if not self.taken:
            self.start = self.position
        self.taken += data
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        self._stream.skip(size)
        self.position += size


def _entries(stream: LayerStream, wanted: Callable[[str], bool], keep: Keep) -> Iterator[ListedEntry]:
    source = _Headers(stream)
    for entry in read_entries(source):
        blocks, start = source.taken, source.start
        content = ""
        if entry.kind == "file":
            hasher = hashlib.sha256()
            kept = bytearray() if entry.size_bytes <= _KEPT_BYTES and wanted(entry.path) else None
            for piece in stream.pieces(entry.size_bytes):
                hasher.update(piece)
                if kept is not None:
                    kept += piece
            source.position += entry.size_bytes
            content = hasher.hexdigest()
            if kept is not None:
                keep(entry, bytes(kept))
        yield _listed(entry, blocks, start, content)
        source.taken = b""


def _listed(entry: TarEntry, blocks: bytes, start: int, content: str) -> ListedEntry:
    block = blocks[-BLOCK:]
    return ListedEntry(
        path=entry.path,
        kind=entry.kind,
        mode=f"{entry.mode:04o}",
        owner=f"{_octal(block[108:116])}:{_octal(block[116:124])}",
        names=f"{_text(block[265:297])}:{_text(block[297:329])}",
        mtime=_octal(block[136:148]),
        size=entry.size_bytes,
        target=entry.target,
        content=content,
        header=hashlib.sha256(blocks).hexdigest()[:16],
        tar_offset=start,
    )


def _octal(digits: bytes) -> int:
    """A numeric field; -1 for a form that only somebody else's archive has (`header` then tells two apart)."""
    try:
        return int(digits.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _text(name: bytes) -> str:
    return name.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _members(path: Path) -> Iterator[Member]:
    """The gzip members of a layer that has been verified already."""
    from isal import isal_zlib

    with path.open("rb") as stored:
        position = 0
        data = stored.read(CHUNK_BYTES)
        while data:
            inflater = isal_zlib.decompressobj(31)
            hasher = hashlib.sha256()
            size = plain = 0
            while data and not inflater.eof:
                plain += len(inflater.decompress(data, CHUNK_BYTES))
                rest = inflater.unused_data or inflater.unconsumed_tail
                hasher.update(data[: len(data) - len(rest)])
                size += len(data) - len(rest)
                data = bytes(rest) or stored.read(CHUNK_BYTES)
            yield Member(position, size, hasher.hexdigest()[:16])
            position += plain
