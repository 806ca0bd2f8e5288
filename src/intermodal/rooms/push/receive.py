"""`pull`: an image of a registry into the store, once all of it has been verified.

Takes a reference, hands on a `PullReport`.

Rules, in order:
1. Documents first: manifest, index and config must keep the rules of `registry.documents` before a layer is fetched.
2. Every blob is hashed and measured while it arrives; every layer is read through, entry by entry, and its diff id
   compared, before it gets its name in the store (`oci.verify`). A refused one is thrown away.
3. The name is written last, so an image is there as a whole or not at all. What has arrived of a broken pull is kept
   and continued by the next.
4. Of an index only this machine's platform is taken, unless others are asked for; then the store's name stands for
   that platform's manifest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import (
    ImageRefusedError,
    InputError,
    IntermodalError,
    RegistryError,
    StoreError,
    UnknownImageError,
)
from intermodal.events import SILENT, Events, Task
from intermodal.host import Host
from intermodal.oci.descriptor import INDEXES, LAYER_COMPRESSION, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layer_stream import LIMITS, Limits
from intermodal.oci.layout import Store
from intermodal.oci.partial import PartialBlob
from intermodal.oci.reference import parse_name
from intermodal.oci.verify import LayerFacts, verify_layer
from intermodal.registry.client import Document, Registries, Repository
from intermodal.registry.crowd import StoppableTask, each, stoppable
from intermodal.registry.documents import Config, Index, Manifest, parse_config, parse_manifest
from intermodal.registry.download import download
from intermodal.registry.patience import Manner
from intermodal.registry.reference import RemoteReference
from intermodal.rooms.push.neighbours import Neighbours
from intermodal.rooms.push.report import PullReport

ALL = "all"

Found = TypeVar("Found")


class _Image(Struct, frozen=True):
    """One platform's image, its documents verified; or an artifact, without a config of ours."""

    document: Document
    manifest: Manifest
    config_data: bytes
    config: Config | None

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """Everything that its manifest names."""
        return (self.manifest.config.digest, *(layer.digest for layer in self.manifest.layers))


class _Layer(Struct, frozen=True):
    """One blob to fetch; `diff_id` is None for what is no layer."""

    blob: Descriptor
    diff_id: Digest | None


def pull(
    reference: RemoteReference,
    *,
    store: Store,
    host: Host,
    events: Events = SILENT,
    name: str = "",
    platform: str = "",
    plain_http: bool = False,
    manner: Manner | None = None,
    limits: Limits = LIMITS,
) -> PullReport:
    """The report on an image that the store now holds.

    Args:
        reference: what to pull; with a tag or a digest.
        store: where to.
        host: this machine.
        events: where progress goes.
        name: NAME[:TAG] in the store; default: the reference itself.
        platform: "linux/arm64", "all", or "" for this machine's.
        plain_http: the user allows a connection without TLS.
        manner: how patient to be with the registry.
        limits: what counts as a bomb.

    Raises:
        UnknownImageError: the registry has no such image, or not for that platform.
        ImageRefusedError: it breaks its format or its promises; nothing of it can be seen.
        RegistryError, DownloadError: it could not be fetched; the next call continues.
    """
    began = time.monotonic()
    stop = threading.Event()
    with store.session(), Registries(host, stoppable(manner, stop)) as registries:
        sources = registries.sources(reference, plain_http=plain_http)
        one = _Pull(store, registries, sources, events, stop, limits)
        top, images = one.documents(reference, platform, host.platform)
        downloaded, skipped, moved = one.blobs(images)
        chosen = top if len(images) != 1 or platform == ALL else images[0].document
        name = _name(reference, name, chosen.descriptor.digest)
        unchanged = not downloaded and _names(store, name, chosen.descriptor)
        if not unchanged:
            one.store_documents(images, chosen)
            store.tag(name, chosen.descriptor)
            # what is pushed to a neighbouring repository later can be mounted from here
            Neighbours(store, sources[-1]).remember(digest for image in images for digest in image.blobs)
    return PullReport(
        reference=str(reference),
        name=name,
        digest=chosen.descriptor.digest,
        top=top.descriptor.digest,
        platforms=tuple(image.config.platform for image in images if image.config is not None),
        downloaded_bytes=moved,
        downloaded=downloaded,
        skipped=skipped,
        unchanged=unchanged,
        seconds=time.monotonic() - began,
    )


class _Pull:
    """One image on its way into the store."""

    def __init__(
        self,
        store: Store,
        registries: Registries,
        sources: Sequence[Repository],
        events: Events,
        stop: threading.Event,
        limits: Limits,
    ) -> None:
        self._store, self._registries, self._sources = store, registries, sources
        self._events, self._stop, self._limits = events, stop, limits

    def documents(self, reference: RemoteReference, platform: str, own: str) -> tuple[Document, tuple[_Image, ...]]:
        """What the reference stands for, and the images of it to take, fetched and believed."""
        top = self._first(lambda source: source.manifest(reference.target))
        parsed = parse_manifest(top.data, top.descriptor)
        if isinstance(parsed, Manifest):
            image = self._image(top, parsed, None)
            if platform not in ("", ALL) and image.config is not None and image.config.platform != platform:
                raise _no_platform(reference, platform, [image.config.platform])
            return top, (image,)
        if platform == ALL:
            return top, tuple(self._member(item) for item in parsed.manifests)
        return top, (self._member(_choose(reference, parsed, platform or own)),)

    def blobs(self, images: Sequence[_Image]) -> tuple[tuple[Digest, ...], tuple[Digest, ...], int]:
        """What was fetched, what was there, and how many bytes were moved."""
        wanted: dict[tuple[Digest, Digest | None], _Layer] = {}
        for image in images:
            diff_ids = image.config.diff_ids if image.config else [None] * len(image.manifest.layers)
            for blob, diff_id in zip(image.manifest.layers, diff_ids, strict=True):
                wanted.setdefault((blob.digest, diff_id), _Layer(blob, diff_id))
        known = _known_layers(self._store)
        layers = sorted(wanted.values(), key=lambda layer: -layer.blob.size_bytes)
        total = sum(layer.blob.size_bytes for layer in layers)
        with self._events.task(f"pull from {self._sources[-1]}", total=total, unit="bytes") as task:
            stoppable = StoppableTask(task, self._stop)
            moved = each(lambda layer: self._layer(layer, known, stoppable), layers, self._stop, self._registries)
        downloaded = tuple(layer.blob.digest for layer, size in zip(layers, moved, strict=True) if size)
        skipped = tuple(layer.blob.digest for layer, size in zip(layers, moved, strict=True) if not size)
        return downloaded, skipped, sum(moved) + sum(len(i.document.data) + len(i.config_data) for i in images)

    def store_documents(self, images: Sequence[_Image], top: Document) -> None:
        """Put configs, manifests and index into the store, each after what it names."""
        for image in images:
            self._store.put_bytes(image.config_data)
            self._store.put_bytes(image.document.data)
        self._store.put_bytes(top.data)

    def _member(self, item: Descriptor) -> _Image:
        document = self._first(lambda source: source.manifest(str(item.digest), replace(item, annotations={})))
        parsed = parse_manifest(document.data, document.descriptor)
        if not isinstance(parsed, Manifest):
            raise ImageRefusedError("the image is refused: an index inside an index", found=str(item.digest))
        return self._image(document, parsed, item.platform if item.platform != "unknown/unknown" else None)

    def _image(self, document: Document, manifest: Manifest, platform: str | None) -> _Image:
        data = self._first(lambda source: source.small_blob(manifest.config))
        if not manifest.is_image:
            return _Image(document, manifest, data, None)
        return _Image(document, manifest, data, parse_config(data, manifest, platform))

    def _layer(self, layer: _Layer, known: set[tuple[Digest, Digest]], task: Task) -> int:
        """How many bytes were moved for a layer that the store holds, verified, from now on."""
        blob = layer.blob
        task.advance(0)
        if self._store.has(blob.digest) and self._store.path(blob.digest).stat().st_size == blob.size_bytes:
            if layer.diff_id is not None and (blob.digest, layer.diff_id) not in known:
                self._verify(self._store.path(blob.digest), layer)
            task.advance(blob.size_bytes)
            return 0
        with PartialBlob(self._store.root, blob) as part:
            if part.present:
                return 0  # another process was faster
            had = part.have
            task.advance(had)
            download(self._sources, blob, part, task)
            try:
                if layer.diff_id is not None:
                    self._verify(part.settled(), layer)
            except IntermodalError:
                part.restart()
                raise
            part.commit()
            return max(1, blob.size_bytes - had)

    def _verify(self, path: Path, layer: _Layer) -> None:
        """Read the whole layer, and tell what its users should know."""
        facts = _verified(path, layer, self._limits)
        if facts.setuid:
            more = f" and {len(facts.setuid) - 3} more" if len(facts.setuid) > 3 else ""
            self._events.notice(
                f"layer {layer.blob.digest.short} holds setuid files ({', '.join(facts.setuid[:3])}{more}); "
                "the sandbox strips the bit"
            )

    def _first(self, ask: Callable[[Repository], Found]) -> Found:
        """The answer of the first source that has one; the registry itself has the last word."""
        for source in self._sources[:-1]:
            with suppress(RegistryError, UnknownImageError, ImageRefusedError):
                return ask(source)
        return ask(self._sources[-1])


def _verified(path: Path, layer: _Layer, limits: Limits) -> LayerFacts:
    assert layer.diff_id is not None
    blob = layer.blob
    try:
        return verify_layer(path, blob.digest, layer.diff_id, LAYER_COMPRESSION[blob.media_type], limits=limits)
    except (InputError, StoreError) as error:
        raise ImageRefusedError(
            f"the image is refused: {error.message}",
            found=(f"layer {blob.digest}", *error.found),
            next="ask whoever published it; nothing of that layer was kept",
        ) from error


def _known_layers(store: Store) -> set[tuple[Digest, Digest]]:
    """Layers, with their diff ids, of images that are listed: built here, or verified when they were pulled."""
    known: set[tuple[Digest, Digest]] = set()
    for item in store.listed():
        with suppress(IntermodalError, KeyError, TypeError):
            for manifest in _manifests(store, item):
                parsed = parse_manifest(store.read_bytes(manifest.digest), manifest)
                if isinstance(parsed, Manifest) and parsed.is_image:
                    config = parse_config(store.read_bytes(parsed.config.digest), parsed)
                    known |= set(zip((layer.digest for layer in parsed.layers), config.diff_ids, strict=True))
    return known


def _manifests(store: Store, item: Descriptor) -> tuple[Descriptor, ...]:
    if item.media_type not in INDEXES:
        return (item,)
    parsed = parse_manifest(store.read_bytes(item.digest), item)
    return parsed.manifests if isinstance(parsed, Index) else ()


def _choose(reference: RemoteReference, index: Index, platform: str) -> Descriptor:
    for item in index.manifests:
        if item.platform == platform:
            return item
    raise _no_platform(reference, platform, [item.platform or "?" for item in index.manifests])


def _no_platform(reference: RemoteReference, platform: str, there: list[str]) -> UnknownImageError:
    return UnknownImageError(
        f"{reference} has nothing for {platform}",
        found=f"platforms {', '.join(dict.fromkeys(there))}",
        next="name one with --platform, or all of them: --platform all",
    )


def _name(reference: RemoteReference, wanted: str, digest: Digest) -> str:
    if not wanted:
        return f"{reference.name}:{reference.tag or digest.short}"
    name, tag = parse_name(wanted)
    return f"{name}:{tag or 'latest'}"


def _names(store: Store, name: str, descriptor: Descriptor) -> bool:
    with suppress(IntermodalError):
        return store.resolve(name).digest == descriptor.digest
    return False
