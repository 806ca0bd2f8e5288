"""`push`: an image of the store into a registry, so that readers see the old one or the new one and nothing between.

Takes a descriptor and a reference, hands on a `PushReport`.

Rules, in order:
1. When the tag stands for this very digest, nothing is sent.
2. Blobs come first, several at a time: those that the registry has are left, those that a neighbouring repository of
   the registry is known to have (the one that the image's base came from, too) are mounted, the rest is sent and hashed
   on the way.
3. Then manifests by their digests, then the index or manifest under the tag; a reader of the tag never meets a hole.
4. The store is held in a session meanwhile, so that `prune` takes nothing away.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from msgspec import Struct

from intermodal.errors import InputError, IntermodalError, StoreError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.descriptor import INDEXES, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import parse_descriptor
from intermodal.registry.client import Registries, Repository
from intermodal.registry.crowd import StoppableTask, each, stoppable
from intermodal.registry.patience import Manner
from intermodal.registry.reference import RemoteReference, parse_remote
from intermodal.registry.upload import upload
from intermodal.rooms.push.neighbours import Neighbours
from intermodal.rooms.push.report import PushReport

BASE_NAME = "org.opencontainers.image.base.name"


class _Parts(Struct, frozen=True):
    """What an image consists of, in the order in which it has to be pushed."""

    blobs: tuple[Descriptor, ...]  # each once
    inner: tuple[Descriptor, ...]  # manifests of an index
    top: Descriptor


def push(
    image: Descriptor,
    reference: RemoteReference,
    *,
    store: Store,
    memory: Store | None = None,
    host: Host,
    events: Events = SILENT,
    plain_http: bool = False,
    manner: Manner | None = None,
) -> PushReport:
    """The report on an image that the registry now has under `reference`.

    Args:
        image: manifest or index in the store.
        reference: where to; with a tag, or with the image's own digest.
        store: where the image lies; only read.
        memory: the local store, when that is another; knows which neighbour got which blob.
        host: this machine.
        events: where progress goes.
        plain_http: the user allows a connection without TLS.
        manner: how patient to be with the registry.

    Raises:
        RegistryError: the registry refused; nothing of the image can be seen there.
        RegistryUnreachableError: it did not get through; a later call sends only what is missing.
        StoreError: a blob of the store is damaged.
    """
    began = time.monotonic()
    if reference.digest is not None and reference.digest != image.digest:
        raise InputError(
            f"cannot push {image.digest.short} as {reference}", found="that is the digest of another image",
            next=f"push it as {reference.name}:TAG",
        )  # fmt: skip
    stop = threading.Event()
    memory = memory or store
    with memory.session(), Registries(host, stoppable(manner, stop)) as registries:
        repository = registries.repository(reference, plain_http=plain_http)
        there = repository.find_manifest(reference.target, write=True)
        if there is not None and (there.digest, there.size_bytes) == (image.digest, image.size_bytes):
            return PushReport(str(reference), image.digest, 0, (), (), (), True, time.monotonic() - began)
        return _Push(store, Neighbours(memory, repository), registries, repository, events, stop).run(
            image, reference, began
        )


class _Push:
    """One image on its way into one repository."""

    def __init__(
        self,
        store: Store,
        neighbours: Neighbours,
        registries: Registries,
        repository: Repository,
        events: Events,
        stop: threading.Event,
    ) -> None:
        self._store, self._neighbours = store, neighbours
        self._registries, self._repository = registries, repository
        self._events, self._stop = events, stop

    def run(self, image: Descriptor, reference: RemoteReference, began: float) -> PushReport:
        """Rules 2 and 3."""
        parts = read_parts(self._store, image)
        self._base = self._repository_of_base(parts)
        total = sum(blob.size_bytes for blob in parts.blobs)
        with self._events.task(f"push to {self._repository}", total=total, unit="bytes") as task:
            stoppable = StoppableTask(task, self._stop)
            largest_first = sorted(parts.blobs, key=lambda blob: -blob.size_bytes)
            results = each(lambda blob: self._blob(blob, stoppable), largest_first, self._stop, self._registries)
        outcomes = {blob.digest: result for blob, result in zip(largest_first, results, strict=True)}
        documents = 0
        for item in parts.inner:
            documents += self._document(item, str(item.digest))
        documents += self._document(parts.top, reference.target)
        self._neighbours.remember(blob.digest for blob in parts.blobs)
        by_way = {
            how: tuple(blob.digest for blob in parts.blobs if outcomes[blob.digest][0] == how)
            for how in ("uploaded", "mounted", "skipped")
        }
        return PushReport(
            reference=str(reference),
            digest=image.digest,
            uploaded_bytes=documents + sum(sent for _, sent in outcomes.values()),
            uploaded=by_way["uploaded"],
            mounted=by_way["mounted"],
            skipped=by_way["skipped"],
            unchanged=False,
            seconds=time.monotonic() - began,
        )

    def _blob(self, blob: Descriptor, task: StoppableTask) -> tuple[str, int]:
        task.advance(0)
        if self._repository.has_blob(blob):
            task.advance(blob.size_bytes)
            return "skipped", 0
        path = self._store.path(blob.digest)
        sent = upload(
            self._repository, path, blob, mount_from=self._neighbours.of(blob.digest) or self._base, task=task
        )
        return sent.how, sent.bytes

    def _repository_of_base(self, parts: _Parts) -> str:
        """The repository in this registry that the image's base came from; "" for any other base."""
        for manifest in parts.inner or (parts.top,):
            with suppress(IntermodalError, KeyError, TypeError, AttributeError):
                name = str(self._store.config(manifest)["config"]["Labels"][BASE_NAME])
                base = parse_remote(name)
                if not name.startswith("deb:") and base.registry == self._repository.transport.settings.name:
                    return base.repository if base.repository != self._repository.name else ""
        return ""

    def _document(self, item: Descriptor, target: str) -> int:
        """How many bytes the document took; `target` stands for it now."""
        data = self._store.read_bytes(item.digest)
        self._repository.put_manifest(target, data, item.media_type)
        return len(data)


def read_parts(store: Store, image: Descriptor) -> _Parts:
    """What `image` consists of; every document is hashed again.

    Raises:
        StoreError: a document is damaged, or a blob is missing.
    """
    inner: list[Descriptor] = []
    blobs: dict[Digest, Descriptor] = {}
    try:
        if image.media_type in INDEXES:
            inner = [parse_descriptor(item) for item in store.document(image)["manifests"]]
        for manifest in inner or [image]:
            document = store.document(manifest)
            for item in (document["config"], *document["layers"]):
                blob = parse_descriptor(item)
                blobs.setdefault(blob.digest, blob)
    except (KeyError, TypeError) as error:
        raise StoreError(f"image {image.digest.short} has a damaged manifest", found=repr(error)) from error
    missing = [blob for blob in blobs.values() if not store.has(blob.digest)]
    if missing:
        raise StoreError(
            f"image {image.digest.short} is not whole",
            found=[f"the store does not hold {blob.digest}" for blob in missing[:3]],
            next="build or pull it again",
        )
    unique = {item.digest: item for item in inner}
    return _Parts(tuple(blobs.values()), tuple(unique.values()), image)
