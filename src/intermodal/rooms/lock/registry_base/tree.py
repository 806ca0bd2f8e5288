"""What lies where in an image: its layers merged as names, kinds and links; content is read when somebody asks for it.

Takes the stored layers of an image, lowest first; hands on a `Tree`. Writes nothing and runs nothing. The layers were
verified when they were fetched (`oci.verify`), so names and links keep the rules of `oci.layer_rules`; both digests are
compared again whenever a layer is read.

Spec: OCI image-spec 1.1, "Image Layer Filesystem Changeset", "Whiteouts".
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from intermodal.errors import RequirementError
from intermodal.oci.descriptor import LAYER_COMPRESSION
from intermodal.oci.layer_rules import OPAQUE, WHITEOUT
from intermodal.oci.layer_stream import LayerStream
from intermodal.oci.tar_reader import Kind, TarEntry, read_entries
from intermodal.rooms.lock.rows import BaseLayerRow

MAX_LINKS = 40
MAX_READ_BYTES = 512 << 20  # at once


class Stored(Struct, frozen=True):
    """One layer as it lies in the store."""

    path: Path
    row: BaseLayerRow


class Node(Struct, frozen=True):
    """One entry of the merged tree."""

    path: str  # where its bytes lie in its layer; of a hard link, those of its target
    kind: Kind
    mode: int
    size_bytes: int
    target: str
    layer: int


class Tree:
    """The merged layers of one image.

    Raises:
        StoreError: a layer is damaged, or not the one that its row names.
    """

    def __init__(self, layers: Sequence[Stored]) -> None:
        self._layers = layers
        self.nodes: dict[str, Node] = {}
        self.tar_bytes = [0] * len(layers)
        for number in range(len(layers)):
            self._lay_over(number)

    def resolve(self, path: str) -> str | None:
        """Where `path` leads, every link followed inside the image; None when it leads nowhere."""
        left, place, links = path.strip("/").split("/"), "", 0
        while left:
            part = left.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                place = place.rpartition("/")[0]
                continue
            place = f"{place}/{part}".lstrip("/")
            node = self.nodes.get(place)
            if node is None:
                return None
            if node.kind == "symlink":
                links += 1
                if links > MAX_LINKS:
                    return None
                place = "" if node.target.startswith("/") else place.rpartition("/")[0]
                left = [*node.target.split("/"), *left]
        return place

    def file(self, path: str) -> Node | None:
        """The regular file that `path` leads to."""
        found = self.resolve(path)
        node = self.nodes.get(found) if found is not None else None
        return node if node is not None and node.kind == "file" else None

    def read(self, wanted: Sequence[Node]) -> list[bytes]:
        """The content of files, in the order asked; each layer is read once.

        Raises:
            RequirementError: they are too large to be looked into.
        """
        if sum(node.size_bytes for node in set(wanted)) > MAX_READ_BYTES:
            largest = max(wanted, key=lambda node: node.size_bytes)
            raise RequirementError(
                "the base holds files too large to look into",
                found=f"/{largest.path}, {largest.size_bytes} bytes",
                next="take another base",
            )
        found: dict[tuple[int, str], bytes] = {}
        for number in sorted({node.layer for node in wanted}):
            names = {node.path for node in wanted if node.layer == number}
            for entry, stream in self._entries(number):
                if _clean(entry.path) in names and entry.kind == "file":
                    found[number, _clean(entry.path)] = stream.take(entry.size_bytes)
                else:
                    stream.skip(entry.size_bytes)
        return [found[node.layer, node.path] for node in wanted]

    def _lay_over(self, number: int) -> None:
        """Add a layer: first what it deletes of those below, then what it brings."""
        fresh: dict[str, Node] = {}
        deleted: set[str] = set()
        emptied: set[str] = set()
        for entry, stream in self._entries(number):
            stream.skip(entry.size_bytes)
            path = _clean(entry.path)
            folder, _, name = path.rpartition("/")
            if name == OPAQUE:
                emptied.add(folder)
            elif name.startswith(WHITEOUT):
                deleted.add(posixpath.join(folder, name.removeprefix(WHITEOUT)))
            elif entry.kind == "hardlink":
                fresh[path] = fresh[_clean(entry.target)]
            elif path:
                fresh[path] = Node(path, entry.kind, entry.mode, entry.size_bytes, entry.target, number)
        emptied |= deleted | {path for path, node in fresh.items() if node.kind != "directory"}
        self.nodes = {
            path: node
            for path, node in self.nodes.items()
            if path not in deleted and emptied.isdisjoint(_parents(path))
        }
        for path, node in fresh.items():
            self.nodes[path] = node
            self._imply(path.rpartition("/")[0], number)

    def _imply(self, folder: str, number: int) -> None:
        while folder and folder not in self.nodes:
            self.nodes[folder] = Node(folder, "directory", 0o755, 0, "", number)
            folder = folder.rpartition("/")[0]

    def _entries(self, number: int) -> Iterator[tuple[TarEntry, LayerStream]]:
        layer = self._layers[number]
        with layer.path.open("rb", buffering=0) as stored:
            stream = LayerStream(stored, compression=LAYER_COMPRESSION[layer.row.media_type])
            for entry in read_entries(stream):
                yield entry, stream
            stream.finish(layer.row.digest, layer.row.diff_id)
            self.tar_bytes[number] = stream.tar_bytes


def _parents(path: str) -> Iterator[str]:
    """The folders above a path, without the root."""
    position = path.find("/")
    while position > 0:
        yield path[:position]
        position = path.find("/", position + 1)


def _clean(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))
