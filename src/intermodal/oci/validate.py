"""One validator: recomputes everything that a store claims, and lists all faults at once.

Takes a `Store`, or one image of it; hands on faults in words, none when all is sound. Never raises for what it reads,
never changes anything, and goes on behind every fault: a document with wrong bytes is still read as far as it can be.

Rules, in order:
1. The layout says it is one, and its list of images holds descriptors, each name once.
2. Every blob has the digest and size that each descriptor says; media types are what they should be.
3. A manifest is no index and an index holds manifests; the platforms of an index are those of its configs.
4. The config names one diff id per layer, and each is the digest of that layer unpacked; so does its history.
5. Every other file among the blobs has the digest that is its name.

Spec: OCI image-spec 1.1, "OCI Image Layout"; "OCI Image Manifest"; "OCI Image Configuration"; "Image Layer Filesystem
Changeset".
"""

from __future__ import annotations

import json
from typing import Any, get_args

from msgspec import Struct

from intermodal.errors import IntermodalError
from intermodal.events import SILENT, Events, Task
from intermodal.oci.descriptor import CONFIGS, INDEX, INDEXES, LAYER_COMPRESSION, MANIFESTS, Compression, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import NAME, Store
from intermodal.oci.manifest import MAX_BYTES, parse_descriptor
from intermodal.oci.measure import Measured, measure

LAYOUT_VERSION = "1.0.0"


class Fault(Struct, frozen=True, order=True):
    """One thing that is wrong: with which document or blob, what, and which images it spoils."""

    where: str  # "layer 0123456789ab"
    what: str
    images: tuple[str, ...] = ()  # names, or digests of images without one; () when no image needs it
    path: str = ""  # of the file to remove, where that is the way to get it made again

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({', '.join(self.images)})" if self.images else "")


class Validation(Struct, frozen=True):
    """What was looked at, and everything that is wrong with it."""

    images: int
    blobs: int
    size_bytes: int
    faults: tuple[Fault, ...]


def validate(store: Store, descriptor: Descriptor) -> tuple[str, ...]:
    """Everything that is wrong with one image, as "where: what"; empty when it is sound."""
    checker = _Checker(store, Task())
    checker.image(descriptor)
    return tuple(f"{fault.where}: {fault.what}" for fault in checker.faults())


def validate_store(store: Store, events: Events = SILENT) -> Validation:
    """Everything that is wrong with a store and all its images.

    Raises:
        StoreError: the store cannot be locked against `prune`.
    """
    if not store.root.is_dir():
        return Validation(0, 0, 0, ())
    with store.session():
        files = sorted(store.blobs.iterdir()) if store.blobs.is_dir() else []
        size_bytes = sum(path.lstat().st_size for path in files)
        with events.task("recompute everything", total=size_bytes, unit="bytes") as task:
            checker = _Checker(store, task)
            checker.layout()
            listed = checker.listed()
            for number, item in enumerate(listed, 1):
                task.label(f"recompute image {number} of {len(listed)}")
                checker.image(item)
            task.label("recompute other blobs")
            for path in files:
                checker.file(path.name)
    return Validation(len(listed), len(files), size_bytes, checker.faults())


class _Checker:
    """Collects faults; every blob is read once, however many images share it."""

    def __init__(self, store: Store, task: Task) -> None:
        self._store, self._task = store, task
        self._measured: dict[tuple[Digest, Compression | None], Measured] = {}
        self._found: dict[tuple[str, str, str], dict[str, None]] = {}
        self._image = ""

    def faults(self) -> tuple[Fault, ...]:
        """What was found, in the order of finding."""
        return tuple(Fault(where, what, tuple(names), path) for (where, what, path), names in self._found.items())

    def _add(self, where: str, what: str, path: str = "") -> None:
        names = self._found.setdefault((_shown(where), _shown(what), path), {})
        if self._image:
            names[_shown(self._image)] = None

    # --- the store
    def layout(self) -> None:
        """Rule 1, first half."""
        document = self._read_json("oci-layout")
        if document is not None and document.get("imageLayoutVersion") != LAYOUT_VERSION:
            self._add("oci-layout", f"version {document.get('imageLayoutVersion')!r}, {LAYOUT_VERSION} is known")

    def listed(self) -> list[Descriptor]:
        """The images that index.json names, as far as it can be understood."""
        document = self._read_json("index.json")
        if document is None:
            return []
        if document.get("mediaType", INDEX) != INDEX or document.get("schemaVersion") != 2:
            self._add("index.json", "its media type or schema version is wrong")
        found = [item for _, item in self._descriptors(document, "manifests", "index.json")]
        names = [name for item in found if (name := item.annotations.get(NAME))]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._add("index.json", f"{names.count(name)} images are called {name}")
        return found

    def file(self, name: str) -> None:
        """Rule 5: a file among the blobs."""
        self._image = ""
        path = str(self._store.blobs / name)
        try:
            digest = Digest(name)
        except IntermodalError:
            self._add(f"file {name[:80]!r}", "no blob has such a name", path)
            return
        if not any((digest, packed) in self._measured for packed in (None, *get_args(Compression))):
            self._blob(f"blob {digest.short}", Descriptor("", digest, -1))

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self._store.root / name
        try:
            with path.open("rb") as stream:
                return self._parsed(name, stream.read(MAX_BYTES * 4 + 1), str(path))
        except OSError as error:
            self._add(name, error.strerror or str(error))
            return None

    # --- one image
    def image(self, descriptor: Descriptor) -> None:
        """Rules 2 to 4, for a manifest or an index of manifests."""
        self._image = descriptor.annotations.get(NAME) or descriptor.digest.short
        if descriptor.media_type not in INDEXES:
            self._manifest(descriptor)
            return
        where = f"index {descriptor.digest.short}"
        document = self._document(where, descriptor)
        if document is None:
            return
        if (
            document.get("mediaType", descriptor.media_type) != descriptor.media_type
            or document.get("schemaVersion") != 2
        ):
            self._add(where, "its media type or schema version is wrong")
        if "layers" in document or "config" in document:
            self._add(where, "it is an index and a manifest")
        for _, item in self._descriptors(document, "manifests", where):
            self._manifest(item)

    def _manifest(self, descriptor: Descriptor) -> None:
        where = f"manifest {descriptor.digest.short}"
        manifest = self._document(where, descriptor)
        if manifest is None:
            return
        own = manifest.get("mediaType", descriptor.media_type)  # absent in some that others made; OCI allows it
        if descriptor.media_type not in MANIFESTS or own != descriptor.media_type or manifest.get("schemaVersion") != 2:
            self._add(where, "its media type or schema version is wrong")
        if "manifests" in manifest:
            self._add(where, "it is a manifest and an index")
        layers = self._descriptors(manifest, "layers", where)
        config: dict[str, Any] | None = None
        for _, item in self._descriptors({"config": [manifest.get("config")]}, "config", where):
            if item.media_type not in CONFIGS:
                self._add(where, f"its config has media type {item.media_type}")
            config = self._document(f"config {item.digest.short}", item)
            if config is not None:
                self._config(config, descriptor, where, f"config {item.digest.short}")
        diff_ids, stated = _diff_ids(config or {}), manifest.get("layers")
        if config is not None and isinstance(stated, list) and len(diff_ids) != len(stated):
            self._add(where, f"{len(stated)} layers, but {len(diff_ids)} diff ids")
        for number, layer in layers:
            self._layer(layer, diff_ids[number] if number < len(diff_ids) else None)

    def _config(self, config: dict[str, Any], descriptor: Descriptor, where: str, own: str) -> None:
        platform = f"{config.get('os')}/{config.get('architecture')}"
        if not all(isinstance(config.get(key), str) for key in ("os", "architecture")):
            self._add(own, "it names no platform")
        elif descriptor.platform and platform != descriptor.platform:
            self._add(where, f"listed for {descriptor.platform}, its config says {platform}")
        rootfs = config.get("rootfs")
        if not isinstance(rootfs, dict) or rootfs.get("type") != "layers" or not _diff_ids(config):
            self._add(own, "it has no root file system of layers")
        history = config.get("history") or []
        steps = history if isinstance(history, list) else [None]
        real = sum(not step.get("empty_layer") for step in steps if isinstance(step, dict))
        if steps and real != len(_diff_ids(config)):
            self._add(own, "its history has another number of layers than its root file system")

    def _layer(self, layer: Descriptor, diff_id: str | None) -> None:
        where = f"layer {layer.digest.short}"
        packed = LAYER_COMPRESSION.get(layer.media_type)
        if packed is None:
            self._add(where, f"media type {layer.media_type}")
        measured = self._blob(where, layer, inflate=packed)
        if packed is None or measured.missing:
            return
        if measured.diff_id is None:
            self._add(where, f"it does not inflate ({measured.why})")
        elif diff_id is not None and str(measured.diff_id) != diff_id:
            self._add(where, f"unpacked it is {str(measured.diff_id)[:19]}, the config says {diff_id[:19]}")

    # --- blobs and documents
    def _blob(self, where: str, descriptor: Descriptor, *, inflate: Compression | None = None) -> Measured:
        """What a blob really is, with its faults told; a size of -1 is not compared."""
        digest, path = descriptor.digest, self._store.path(descriptor.digest)
        measured = self._measured.get((digest, inflate))
        if measured is None:
            measured = self._measured[digest, inflate] = measure(path, self._task, inflate=inflate)
        if measured.missing:
            self._add(where, measured.missing)
            return measured
        if measured.digest != digest:
            self._add(where, f"its bytes are {measured.digest.short}", str(path))
        if descriptor.size_bytes not in (-1, measured.size_bytes):
            self._add(where, f"{measured.size_bytes} bytes, its descriptor says {descriptor.size_bytes}")
        return measured

    def _document(self, where: str, descriptor: Descriptor) -> dict[str, Any] | None:
        measured = self._blob(where, descriptor)
        if measured.missing:
            return None
        if measured.size_bytes > MAX_BYTES:
            self._add(where, f"{measured.size_bytes} bytes are too many for a document")
            return None
        return self._parsed(where, self._store.path(descriptor.digest).read_bytes())

    def _parsed(self, where: str, data: bytes, path: str = "") -> dict[str, Any] | None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            self._add(where, f"it is not JSON ({error})", path)
            return None
        if not isinstance(value, dict):
            self._add(where, "it is not a JSON object", path)
            return None
        return value

    def _descriptors(self, document: dict[str, Any], key: str, where: str) -> list[tuple[int, Descriptor]]:
        """The descriptors that can be understood, with their places; each other one is a fault."""
        listed, found = document.get(key), []
        if not isinstance(listed, list):
            self._add(where, f"it has no list of {key}")
            return []
        for number, item in enumerate(listed):
            try:
                found.append((number, parse_descriptor(item)))
            except IntermodalError as error:
                self._add(where, f"{key}[{number}]: {'; '.join((error.message, *error.found))}")
        return found


def _shown(text: str) -> str:
    """Foreign words as they may be shown on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])


def _diff_ids(config: dict[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return [str(item) for item in found] if isinstance(found, list) else []
