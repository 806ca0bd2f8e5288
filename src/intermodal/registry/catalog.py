"""What the local store looks like as a registry: repositories, their tags, and everything that a pull may ask for.

Takes a store, hands on one `Repository` per name. Opens no socket and writes nothing.

Rules, in order:
1. An image "team/digits:1" is tag `1` of repository `team/digits`. What a newer image replaced keeps no tag and can
   still be pulled by digest from the repository it was in. Images without any name are in no repository.
2. A repository holds what its images reach: manifests of an index, configs, layers; and whatever names one of its
   manifests as its subject. A blob that no image of the repository reaches is not there, whatever the store holds.
3. A document is re-hashed when it is read. One that is damaged keeps its name and is an error when it is asked for.
4. `index.json` is looked at for every request, so an image built meanwhile is there at once.

Spec: OCI distribution-spec 1.1, "Pull" and "Listing Referrers"; image-spec 1.1, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from intermodal.errors import InputError, IntermodalError, StoreError
from intermodal.oci import reference as references
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import FORMER, NAME, Store
from intermodal.oci.manifest import parse_descriptor


class Repository(Struct, frozen=True):
    """One repository; filled while it is read, and left alone afterwards."""

    tags: dict[str, Descriptor] = field(default_factory=dict)
    manifests: dict[Digest, Descriptor] = field(default_factory=dict)  # and indexes
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    referrers: dict[Digest, list[dict[str, object]]] = field(default_factory=dict)  # descriptors, by their subject


class Catalog:
    """The repositories of a store; safe to ask from many threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._repositories: Mapping[str, Repository] = {}
        self._documents: dict[Digest, dict[str, Any]] = {}

    def repositories(self) -> Mapping[str, Repository]:
        """Every repository by name, as the store is now.

        Raises:
            StoreError: the list of images cannot be read.
        """
        with self._lock:
            try:
                status = (self._store.root / "index.json").stat()
            except OSError as error:
                raise StoreError("cannot read the store's list of images", found=str(error)) from error
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if stamp != self._stamp:
                self._repositories = self._read()
                self._stamp = stamp
            return self._repositories

    def _read(self) -> dict[str, Repository]:
        found: dict[str, Repository] = {}
        listed = self._store.listed()
        for item in listed:
            name, tag = _name_and_tag(item)
            if not name:
                continue
            repository = found.setdefault(name, Repository())
            if tag:
                repository.tags[tag] = item
            self._enter(repository, item)
        pointing = [(item, document) for item in listed if "subject" in (document := self._document(item))]
        for repository in found.values():
            self._add_referrers(repository, pointing)
        return dict(sorted(found.items()))

    def _enter(self, repository: Repository, item: Descriptor) -> None:
        """Add a manifest or index and all it reaches; each once, so no circle is endless."""
        if item.digest in repository.manifests:
            return
        repository.manifests[item.digest] = item
        document = self._document(item)
        for inner in _descriptors(document.get("manifests")):
            self._enter(repository, inner)
        for blob in _descriptors([document.get("config")], document.get("layers"), document.get("blobs")):
            repository.blobs[blob.digest] = blob

    def _add_referrers(self, repository: Repository, pointing: list[tuple[Descriptor, dict[str, Any]]]) -> None:
        waiting = pointing
        while True:  # a signature may sign an attestation, whatever their order in the list
            later = []
            for item, document in waiting:
                subject = next(_descriptors([document["subject"]]), None)
                if subject is None or (
                    subject.digest not in repository.manifests and item.digest not in repository.manifests
                ):
                    later.append((item, document))
                    continue
                self._enter(repository, item)
                repository.referrers.setdefault(subject.digest, []).append(_as_referrer(item, document))
            if len(later) == len(waiting):
                return
            waiting = later

    def _document(self, item: Descriptor) -> dict[str, Any]:
        """The document behind a descriptor; empty when it is missing or damaged, which `GET` will tell."""
        if item.digest not in self._documents:
            try:
                self._documents[item.digest] = self._store.document(item)
            except StoreError:
                return {}
        return self._documents[item.digest]


def find(repositories: Mapping[str, Repository], name: str, namespace: str = "") -> Repository | None:
    """The repository that a client means by `name`.

    Args:
        repositories: all there are.
        name: as it stands in the address.
        namespace: the registry for which we are a mirror (containerd sends it as `?ns=`). An image pulled from there
            is called "registry.example.com/team/digits" here, and Docker Hub's "library/digits" is our "digits".
    """
    names = [name, f"{namespace}/{name}"]
    if name.startswith("library/"):
        names.append(name.removeprefix("library/"))
    return next((repositories[each] for each in names if each in repositories), None)


def _name_and_tag(item: Descriptor) -> tuple[str, str]:
    """Repository and tag of a listed image; empty where its name could not stand in an address."""
    full = item.annotations.get(NAME) or item.annotations.get(FORMER, "")
    try:
        name, tag = references.parse_name(full)
    except InputError:
        return "", ""
    return name, tag


def _descriptors(*lists: object) -> Iterator[Descriptor]:
    """Every descriptor in some lists of a document; what is none is left out."""
    for each in lists:
        for item in each if isinstance(each, list) else ():
            if isinstance(item, Mapping):
                try:
                    yield parse_descriptor(item)
                except IntermodalError:
                    continue


def _as_referrer(item: Descriptor, document: Mapping[str, Any]) -> dict[str, object]:
    config = document.get("config")
    kind = document.get("artifactType") or (config.get("mediaType") if isinstance(config, Mapping) else None)
    found: dict[str, object] = {
        "mediaType": item.media_type,
        "digest": str(item.digest),
        "size": item.size_bytes,
    }
    if kind:
        found["artifactType"] = kind
    if annotations := document.get("annotations"):
        found["annotations"] = annotations
    return found
