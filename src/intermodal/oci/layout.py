"""The local store: an OCI image layout that several processes may use at once and that no crash can damage.

Takes blobs and tags, hands back descriptors and documents.

Rules, in order:
1. A file appears under its final name only when it is complete: temporary file, fsync, rename, fsync of the folder.
2. Bytes are re-hashed when they are read as documents; a blob is whatever its digest says, or an error.
3. `index.json` is changed under an exclusive lock, read again first. A replaced tag leaves its old manifest in the
   list without a name, so that it can still be reached by digest until `prune`.
4. Whoever writes several blobs that belong together holds a `session` (a shared lock). `prune` wants the same lock
   for itself alone, so it never removes what a running build just wrote; the kernel drops locks of killed processes.
5. A full disk or a missing permission is a `StoreError`, never a half-written file.

Spec: OCI image-spec 1.1, "OCI Image Layout".
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import InputError, StoreError, UnknownImageError
from intermodal.host.files import failure, replace_file
from intermodal.host.held import Sweep
from intermodal.oci import reference as references
from intermodal.oci.blob import BlobWriter, damaged
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import INDEXES, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.manifest import MAX_BYTES, index_bytes, parse_descriptor

if TYPE_CHECKING:
    from intermodal.oci.prune import PruneReport

NAME = "org.opencontainers.image.ref.name"  # "digits:1.0.0"; absent on what a newer image replaced
FORMER = "dev.intermodal.image.name"  # the name without tag, kept when the tag has moved on


class StoredImage(Struct, frozen=True):
    """One line of `intermodal images`; `name` is "" when a newer image took its tag."""

    name: str
    digest: Digest
    size_bytes: int  # all layers as stored
    platforms: tuple[str, ...]
    layers: int
    former: str = ""  # "digits", of an image whose tag has moved on


class Store:
    """An image layout in a folder; cheap to make, opens nothing by itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self._index = root / "index.json"
        self._temporary = root / "tmp"
        self._reports = root / "reports"

    def open_or_create(self) -> Store:
        """This store, its folders made when they are missing.

        Raises:
            StoreError: the folder cannot be made, or holds something that is no image layout.
        """
        try:
            if not (self.root / "oci-layout").exists() or not self._index.exists():
                for folder in (self.blobs, self._temporary, self._reports):
                    folder.mkdir(parents=True, exist_ok=True)
                with self._locked("index.lock", fcntl.LOCK_EX):
                    if not self._index.exists():
                        self._write(self._index, index_bytes(()))
                    self._write(self.root / "oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}))
        except OSError as error:
            raise failure("cannot open the store", self.root, error) from error
        return self

    # --- blobs ---------------------------------------------------------------------------------------------------
    def path(self, digest: Digest) -> Path:
        """Where a blob lies, or would lie."""
        return self.blobs / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether the store holds the blob; its bytes are not looked at."""
        return self.path(digest).is_file()

    def writer(self) -> BlobWriter:
        """A context manager that takes bytes and names them when they are complete."""
        return BlobWriter(self.blobs, self._temporary)

    def put_bytes(self, data: bytes) -> tuple[Digest, int]:
        """Digest and size of `data`, which the store holds afterwards."""
        digest = Digest.of(data)
        if not self.has(digest):
            with self.writer() as writer:
                writer.write(data)
                writer.commit()
        return digest, len(data)

    def read_bytes(self, digest: Digest, limit: int = MAX_BYTES) -> bytes:
        """The blob's bytes, hashed again.

        Raises:
            StoreError: it is missing, larger than `limit`, or not what its name says.
        """
        path = self.path(digest)
        try:
            with path.open("rb") as stream:
                data = stream.read(limit + 1)
        except OSError as error:
            raise failure(f"cannot read blob {digest.short}", path, error) from error
        if len(data) > limit:
            raise StoreError(f"blob {digest.short} is too large to read", found=f"more than {limit} bytes")
        if Digest.of(data) != digest:
            raise damaged(digest, path)
        return data

    def document(self, descriptor: Descriptor) -> dict[str, Any]:
        """The JSON document a descriptor points at, after its size and digest were checked."""
        data = self.read_bytes(descriptor.digest)
        if len(data) != descriptor.size_bytes:
            raise StoreError(
                f"blob {descriptor.digest.short} has another size than its descriptor says",
                found=f"{len(data)} bytes, {descriptor.size_bytes} expected",
            )
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"blob {descriptor.digest.short} is not JSON", found=str(error)) from error
        if not isinstance(value, dict):
            raise StoreError(f"blob {descriptor.digest.short} is not a JSON object")
        return value

    def manifest(self, descriptor: Descriptor) -> dict[str, Any]:
        """The image manifest or index a descriptor points at."""
        return self.document(descriptor)

    def config(self, descriptor: Descriptor) -> dict[str, Any]:
        """The image config of the manifest a descriptor points at."""
        return self.document(parse_descriptor(self.manifest(descriptor)["config"]))

    def manifest_for(self, descriptor: Descriptor, platform: str) -> Digest:
        """The manifest for `platform` behind a descriptor of a manifest or of an index.

        Raises:
            UnknownImageError: the index has no such platform.
        """
        if descriptor.media_type not in INDEXES:
            return descriptor.digest
        found = [parse_descriptor(item) for item in self.document(descriptor)["manifests"]]
        for item in found:
            if item.platform == platform:
                return item.digest
        raise UnknownImageError(
            f"image {descriptor.digest.short} has nothing for {platform}",
            found=f"platforms {', '.join(item.platform or '?' for item in found)}",
            next=f'build it with platforms = ["{platform}"]',
        )

    # --- tags ----------------------------------------------------------------------------------------------------
    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let `name` ("digits:1.0.0") stand for an image that is in the store.

        Raises:
            StoreError: its bytes are not there, or the list cannot be written.
        """
        if not self.has(descriptor.digest):
            raise StoreError(f"cannot tag {name}", found=f"the store does not hold {descriptor.digest}")
        with self._locked("index.lock", fcntl.LOCK_EX):
            listed = self._listed()
            if any(item.digest == descriptor.digest and item.annotations.get(NAME) == name for item in listed):
                return
            kept = [
                _without_name(item, name) if item.annotations.get(NAME) == name else item
                for item in listed
                if not (item.digest == descriptor.digest and NAME not in item.annotations)
            ]
            self._write_index([*kept, replace(descriptor, annotations={NAME: name})])

    def untag(self, name: str) -> bool:
        """Whether `name` stood for an image; it no longer does."""
        with self._locked("index.lock", fcntl.LOCK_EX):
            listed = self._listed()
            kept = [_without_name(item, name) if item.annotations.get(NAME) == name else item for item in listed]
            if kept == listed:
                return False
            self._write_index(kept)
            return True

    def resolve(self, reference: str) -> Descriptor:
        """The image that `reference` names, as `name[:tag]`, `name@sha256:…`, or the first digits of a digest.

        Raises:
            UnknownImageError: none or several; the message names near ones.
            InputError: it is no reference at all.
        """
        wanted = references.parse(reference)
        listed = self._listed()
        found = list({item.digest: item for item in listed if _matches(item, wanted)}.values())
        if not found and wanted.name and not wanted.tag and wanted.digest is None:
            found = [i for i in listed if references.name_of(i.annotations.get(NAME, "")) == wanted.name]
        if not found and wanted.prefix:
            found = list({i.digest: i for i in listed if i.digest.hex.startswith(wanted.prefix)}.values())
        if len(found) == 1:
            return replace(found[0], annotations={})
        if found:
            raise UnknownImageError(
                f"{reference} could be {len(found)} images",
                found=sorted(f"{i.annotations.get(NAME, '(no name)')}  {i.digest.short}" for i in found),
                next="name one with its tag or more digits",
            )
        raise self._unknown(reference, wanted, listed)

    def tag_of(self, digest: Digest, reference: str) -> str:
        """The tag that `reference` means for an image: its own, else that of the image's first name, else "".

        A name without a tag in somebody's layout is a tag itself.
        """
        if reference.startswith("oci:"):
            reference = str(digest)
        wanted = references.parse(reference)
        names = [n for item in self._listed() if item.digest == digest and (n := item.annotations.get(NAME))]
        own = [n for n in names if references.name_of(n) == wanted.name] or names
        return wanted.tag or (own[0].rpartition(":")[2] if own else "")

    def images(self) -> tuple[StoredImage, ...]:
        """Every listed image, by name, those without one last."""
        found = []
        for item in self._listed():
            with suppress(StoreError, KeyError, TypeError):
                found.append(self._stored(item))
        return tuple(sorted(found, key=lambda image: (not image.name, image.name or image.former, image.digest)))

    def prune(self, keep: Collection[Digest] = (), *, dry_run: bool = False) -> PruneReport:
        """Remove images without a name, blobs that nothing lists, and what killed processes left behind.

        Args:
            keep: digests of manifests or blobs to keep in any case.
            dry_run: only say what would go.

        Raises:
            StoreError: somebody is building right now.
        """
        from intermodal.oci.prune import prune

        return prune(self, keep, Sweep(dry_run=dry_run))

    # --- reports -------------------------------------------------------------------------------------------------
    def put_report(self, key: str, report: dict[str, Any]) -> None:
        """Remember a small document under any text; the last one wins."""
        path = self._report_path(key)
        try:
            self._write(path, canonical_json({"key": key, "report": report}))
        except OSError as error:
            raise failure("cannot store a report", path, error) from error

    def get_report(self, key: str) -> dict[str, Any] | None:
        """The document that `put_report` remembered under `key`, or None."""
        try:
            document = json.loads(self._report_path(key).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(document, dict) or document.get("key") != key:
            return None
        report = document.get("report")
        return report if isinstance(report, dict) else None

    # --- locks and the list --------------------------------------------------------------------------------------
    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep `prune` away while blobs are written that nothing lists yet."""
        with self._locked("session.lock", fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store while no session runs.

        Raises:
            StoreError: a session runs.
        """
        with self._locked("session.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    def change_index(self, change: Callable[[list[Descriptor]], list[Descriptor]]) -> None:
        """Replace the list of images by what `change` makes of it, under the lock."""
        with self._locked("index.lock", fcntl.LOCK_EX):
            listed = self._listed()
            changed = change(listed)
            if changed != listed:
                self._write_index(changed)

    def listed(self) -> list[Descriptor]:
        """The descriptors of `index.json`, names in their annotations."""
        return self._listed()

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        try:
            handle = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise failure("cannot lock the store", self.root, error) from error
        try:
            try:
                fcntl.flock(handle, how)
            except BlockingIOError as error:
                raise StoreError(
                    "the store is in use", found="another process is building into it", next="try again when it is done"
                ) from error
            yield
        finally:
            os.close(handle)

    def _listed(self) -> list[Descriptor]:
        try:
            document = json.loads(self._index.read_bytes())
            return [parse_descriptor(item) for item in document["manifests"]]
        except OSError as error:
            raise failure("cannot read the store's list of images", self._index, error) from error
        except (ValueError, KeyError, TypeError, RecursionError, InputError) as error:
            raise StoreError(
                "the store's list of images is damaged",
                found=f"{self._index}: {error}",
                next="move that file away and build again",
            ) from error

    def _write_index(self, listed: list[Descriptor]) -> None:
        try:
            self._write(self._index, index_bytes(listed))
        except OSError as error:
            raise failure("cannot write the store's list of images", self._index, error) from error

    def _write(self, path: Path, data: bytes) -> None:
        replace_file(path, data, self._temporary, mode=0o644)

    def _report_path(self, key: str) -> Path:
        return self._reports / f"{Digest.of(key.encode()).hex}.json"

    def _stored(self, item: Descriptor) -> StoredImage:
        if item.media_type in INDEXES:
            manifests = [parse_descriptor(m) for m in self.document(item)["manifests"]]
        else:
            manifests = [item]
        layers = {layer["digest"]: int(layer["size"]) for each in manifests for layer in self.document(each)["layers"]}
        configs = [self.config(each) for each in manifests]
        return StoredImage(
            name=item.annotations.get(NAME, ""),
            digest=item.digest,
            size_bytes=sum(layers.values()),
            platforms=tuple(f"{c['os']}/{c['architecture']}" for c in configs),
            layers=len(layers),
            former=item.annotations.get(FORMER, ""),
        )

    def _unknown(self, reference: str, wanted: references.Reference, listed: list[Descriptor]) -> UnknownImageError:
        import difflib

        names = sorted({item.annotations[NAME] for item in listed if NAME in item.annotations})
        near = difflib.get_close_matches(str(wanted), names, n=3, cutoff=0.5)
        near += [n for n in names if wanted.name and references.name_of(n) == wanted.name and n not in near]
        return UnknownImageError(
            f"no image {reference} in the store",
            found=f"near: {', '.join(near[:5])}" if near else f"{len(names)} images, none of a similar name",
            next=("intermodal images lists them", "intermodal build PATH makes one"),
        )


def _without_name(item: Descriptor, name: str) -> Descriptor:
    return replace(item, annotations={FORMER: references.name_of(name)})


def _matches(item: Descriptor, wanted: references.Reference) -> bool:
    name = item.annotations.get(NAME, "")
    if wanted.digest is not None:
        owner = references.name_of(name) or item.annotations.get(FORMER, "")
        return item.digest == wanted.digest and wanted.name in ("", owner)
    if wanted.name:
        return name == f"{wanted.name}:{wanted.tag or 'latest'}"
    return item.digest.hex.startswith(wanted.prefix)
