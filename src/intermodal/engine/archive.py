"""An image of the store as one tar stream that `docker load`, `podman load` and `ctr images import` all read.

Takes the digest of a manifest in the store; hands on pieces of the archive as they are needed, never the whole.

Rules:
1. The archive is an OCI image layout (`oci-layout`, `index.json`, `blobs/`) with Docker's `manifest.json` beside it, so
   one form serves every engine: those that know the layout find our very manifest, the others find config and layers.
2. Layers that the engine already holds may be left out; the documents still name them.
3. A blob is copied as it lies in the store; whoever receives it checks its digest (a diff id is in the config).

Spec: OCI image-spec 1.1, "OCI Image Layout"; Docker Image Specification v1.2, "Combined Image JSON + Filesystem
Changeset Format".
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import EngineError, InputError, StoreError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import INDEX, MANIFEST, Descriptor
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.oci.layout import NAME, Store
from intermodal.oci.manifest import parse_descriptor

CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


class Parts(Struct, frozen=True):
    """One image of the store, taken apart."""

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[Digest, ...]
    settings: Mapping[str, Any]  # the "config" object of the image config: Entrypoint, Labels, Healthcheck, …

    @property
    def size_bytes(self) -> int:
        """All layers as stored."""
        return sum(layer.size_bytes for layer in self.layers)


class Sent(Struct, frozen=True):
    """What an engine was sent, and the name by which it knows the image now."""

    image: str
    layers: int
    bytes: int


class Loader(Protocol):
    """Whatever takes an image of the store into an engine."""

    def load(self, parts: Parts, name: str, events: Events) -> Sent:
        """Put the image into the engine under `name` ("localhost/digits:1.0.0"), sending only what it lacks.

        Raises:
            EngineError: the engine is missing or refused.
        """
        ...


def read_parts(store: Store, manifest: Digest) -> Parts:
    """The image behind a manifest of the store.

    Raises:
        StoreError: it is missing, damaged, or no image manifest.
    """
    data = store.read_bytes(manifest)
    try:
        document = json.loads(data)
        config = parse_descriptor(document["config"])
        layers = tuple(parse_descriptor(item) for item in document["layers"])
        image = store.document(config)
        diff_ids = tuple(Digest.parse(text) for text in image["rootfs"]["diff_ids"])
        settings = image.get("config") or {}
        if not isinstance(settings, dict) or len(diff_ids) != len(layers):
            raise ValueError("config and manifest disagree about the layers")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{manifest.short} is not an image manifest", found=str(error)) from error
    media_type = str(document.get("mediaType") or MANIFEST)
    return Parts(Descriptor(media_type, manifest, len(data)), config, layers, diff_ids, settings)


def image_name(store: Store, manifest: Digest) -> str:
    """The name under which the store lists an image, "digits:1.0.0"; one made of its digest when it has none."""
    for item in store.listed():
        if item.digest == manifest and item.annotations.get(NAME):
            return item.annotations[NAME]
    return f"image:{manifest.short}"


def index_document(parts: Parts, name: str, reference: str | None = None) -> bytes:
    """The `index.json` of a layout that holds this image alone, under `name`; `reference` is by default its tag."""
    annotations = {CONTAINERD_NAME: familiar(name), REF_NAME: reference or name.rpartition(":")[2]}
    named = replace(parts.manifest, annotations=annotations).as_json()
    return canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]})


def familiar(name: str) -> str:
    """A short name in full, as containerd and Kubernetes write it.

    >>> familiar("digits:1.0.0"), familiar("localhost/digits:1")
    ('docker.io/library/digits:1.0.0', 'localhost/digits:1')
    """
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def common(wanted: Iterable[str], held: Iterable[str]) -> int:
    """How many first entries are the same.

    >>> common(["a", "b", "c"], ["a", "b", "x"])
    2
    """
    count = 0
    for ours, theirs in zip(wanted, held, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def archive(parts: Parts, store: Store, name: str, *, without: Collection[Digest] = ()) -> Iterator[bytes]:
    """The archive in pieces of at most 1 MiB.

    Args:
        parts: the image.
        store: where its blobs lie.
        name: "digits:1.0.0"; the engine will list the image under it.
        without: digests of layers to leave out, because the engine holds them.
    """
    docker = [{
        "Config": _blob(parts.config.digest),
        "RepoTags": [name],
        "Layers": [_blob(layer.digest) for layer in parts.layers],
    }]  # fmt: skip
    for path, data in (
        ("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"})),
        ("index.json", index_document(parts, name)),
        ("manifest.json", canonical_json(docker)),
    ):
        yield from _member(path, data)
    done: set[Digest] = set(without)
    for blob in (parts.manifest, parts.config, *parts.layers):
        if blob.digest not in done:
            done.add(blob.digest)
            yield from _file(_blob(blob.digest), store.path(blob.digest), blob.size_bytes)
    yield bytes(2 * tarfile.BLOCKSIZE)


def write_archive(store: Store, manifest: Digest, name: str, target: Path) -> None:
    """Write the whole archive to a file, which appears only when it is complete.

    Raises:
        InputError: the file cannot be written.
        StoreError: the image is missing or damaged.
    """
    parts = read_parts(store, manifest)
    staged = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with staged.open("wb") as file:
            for piece in archive(parts, store, name):
                file.write(piece)
        staged.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}", found=error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def _blob(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _member(path: str, data: bytes) -> Iterator[bytes]:
    yield _header(path, len(data)) + data + _padding(len(data))


def _file(path: str, source: Path, size_bytes: int) -> Iterator[bytes]:
    yield _header(path, size_bytes)
    left = size_bytes
    try:
        with source.open("rb") as stream:
            while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
            if left or stream.read(1):
                raise StoreError(f"blob {source.name[:12]} has another size than its manifest says")
    except OSError as error:
        raise StoreError(f"cannot read blob {source.name[:12]}", found=f"{source}: {error.strerror}") from error
    yield _padding(size_bytes)


def _header(path: str, size_bytes: int) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.size = size_bytes
    # GNU, because plain ustar ends at 8 GiB and a model file may be larger
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)


def feed(argv: Sequence[str], pieces: Iterable[bytes], host: Host) -> int:
    """How many bytes a command took on its standard input; it must end with success.

    Raises:
        EngineError: it did not.
    """
    count = 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            argv, env=dict(host.environment), cwd="/", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin:  # it gave up early: its last words say why
                for piece in pieces:
                    process.stdin.write(piece)
                    count += len(piece)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            said.seek(0)
            words = said.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
            raise EngineError(f"{Path(argv[0]).name} did not load the image", found=words[-3:])
    return count
