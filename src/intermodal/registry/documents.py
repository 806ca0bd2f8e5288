"""What a stranger's manifest, index and config must be before anything believes them.

Takes bytes and what was said about them, hands on `Manifest`, `Index` and `Config`; does no I/O and follows nothing.

Rules, in order:
1. A document has at most 4 MiB, is one JSON object without a key twice, and has the digest and size it was asked for.
2. Its kind is what the registry calls it and what it calls itself; a document that is a manifest and an index at once
   is neither. Schema 1 is refused.
3. A descriptor has a sha256 digest and a size; its `data` is ignored, and one with `urls` (a foreign layer) is refused,
   because its bytes come from a place that the registry does not answer for.
4. An index holds manifests and no further index; a `subject` is read and never followed.
5. A config names one diff id per layer, all of them sha256, and the platform that the index promised.
6. Nothing is larger or more than `LIMITS` allows.

Spec: OCI image-spec 1.1, "OCI Image Manifest", "OCI Image Index", "OCI Image Configuration", "OCI Content
Descriptors"; Docker "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from intermodal.errors import ImageRefusedError, IntermodalError
from intermodal.oci.descriptor import (
    CONFIGS,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    INDEXES,
    LAYER_COMPRESSION,
    MANIFEST,
    MANIFESTS,
    Descriptor,
)
from intermodal.oci.digest import Digest
from intermodal.oci.manifest import MAX_BYTES, parse_descriptor

ACCEPT = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX))
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


class DocumentLimits(Struct, frozen=True):
    """How much one image may announce."""

    layers: int = 500  # what the kernel stacks, roughly
    manifests: int = 1000
    layer_bytes: int = 256 << 30


LIMITS = DocumentLimits()


class Manifest(Struct, frozen=True):
    """An image, or an artifact when its config is no image config."""

    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]

    @property
    def is_image(self) -> bool:
        """Whether its layers are a file system."""
        return self.config.media_type in CONFIGS and all(x.media_type in LAYER_COMPRESSION for x in self.layers)


class Index(Struct, frozen=True):
    """Manifests of several platforms, and what is attached to them."""

    descriptor: Descriptor
    manifests: tuple[Descriptor, ...]


class Config(Struct, frozen=True):
    """What an image config says, as far as we believe it."""

    platform: str
    diff_ids: tuple[Digest, ...]
    labels: Mapping[str, str]
    entrypoint: tuple[str, ...]
    created: str


def read_document(
    data: bytes, media_type: str, *, expected: Digest | None = None, size: int | None = None
) -> Descriptor:
    """The descriptor of a fetched document, once its bytes are known to be those that were meant.

    Args:
        data: what was received.
        media_type: of the answer, or of the descriptor that led here.
        expected: the digest that was asked for; None for a tag.
        size: of that descriptor.

    Raises:
        ImageRefusedError: they are others.
    """
    digest = Digest.of(data)
    if len(data) > MAX_BYTES:
        raise _refused("a document of it is too large", f"{len(data)} bytes, at most {MAX_BYTES}")
    if expected is not None and digest != expected:
        raise _refused("a document of it is not what was asked for", f"expected {expected}", f"received {digest}")
    if size is not None and size != len(data):
        raise _refused("a document of it has another size than stated", f"stated {size} bytes, received {len(data)}")
    return Descriptor(media_type.partition(";")[0].strip().lower(), digest, len(data))


def parse_manifest(data: bytes, descriptor: Descriptor, limits: DocumentLimits = LIMITS) -> Manifest | Index:
    """What the bytes of a manifest or index say.

    Raises:
        ImageRefusedError: they break a rule of this file; the message names it.
    """
    document = _object(data)
    own = document.get("mediaType")
    stated = descriptor.media_type
    if stated.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        raise _refused("it has Docker's schema 1, which names its layers by unverifiable history", "schemaVersion 1")
    if document.get("schemaVersion") != 2:
        raise _refused("its manifest has no known schema", f"schemaVersion {document.get('schemaVersion')!r}")
    if stated not in (*MANIFESTS, *INDEXES):
        raise _refused("its manifest is of no kind we know", f"media type {stated!r}")
    if own is not None and own != stated:
        raise _refused("its manifest is of two kinds at once", f"it says {own!r}", f"the registry says {stated!r}")
    is_index = stated in INDEXES
    for key in ("config", "layers", "fsLayers") if is_index else ("manifests", "fsLayers"):
        if key in document:
            raise _refused("its manifest is of two kinds at once", f"{stated} with {key!r}")
    if "subject" in document:
        _descriptor(document["subject"], "subject")
    if is_index:
        return Index(descriptor, _members(document, limits))
    layers = tuple(_descriptor(item, f"layers[{n}]") for n, item in enumerate(_list(document, "layers", limits.layers)))
    config = _descriptor(document.get("config"), "config")
    _consistent((config, *layers))
    if config.size_bytes > MAX_BYTES:
        raise _refused("its config is too large", f"{config.size_bytes} bytes")
    for layer in layers:
        if layer.size_bytes > limits.layer_bytes:
            raise _refused("a layer of it is too large", f"{layer.size_bytes} bytes")
    return Manifest(descriptor, config, layers, _words(document.get("annotations")))


def parse_config(data: bytes, manifest: Manifest, platform: str | None = None) -> Config:
    """What the config of an image says.

    Args:
        data: the config, verified.
        manifest: that named it.
        platform: that the index promised, or None.

    Raises:
        ImageRefusedError: it does not fit to its manifest.
    """
    document = _object(data)
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise _refused("its config has no root file system of layers", f"rootfs {str(rootfs)[:80]}")
    diff_ids = tuple(_digest(item, "diff id") for item in _list(rootfs, "diff_ids", LIMITS.layers))
    if len(diff_ids) != len(manifest.layers):
        raise _refused("config and manifest disagree", f"{len(manifest.layers)} layers, {len(diff_ids)} diff ids")
    named = f"{document.get('os')}/{document.get('architecture')}"
    if not all(isinstance(document.get(key), str) for key in ("os", "architecture")):
        raise _refused("its config names no platform", named)
    if platform is not None and platform != named:
        raise _refused("config and index disagree about the platform", f"index {platform}, config {named}")
    settings = document.get("config") or {}
    if not isinstance(settings, dict):
        raise _refused("its config has no settings that can be read", type(settings).__name__)
    entry = settings.get("Entrypoint") or ()
    return Config(
        platform=named,
        diff_ids=diff_ids,
        labels=_words(settings.get("Labels")),
        entrypoint=tuple(str(word) for word in entry) if isinstance(entry, list) else (),
        created=str(document.get("created") or ""),
    )


def _members(document: Mapping[str, Any], limits: DocumentLimits) -> tuple[Descriptor, ...]:
    found = []
    for number, item in enumerate(_list(document, "manifests", limits.manifests)):
        member = _descriptor(item, f"manifests[{number}]")
        if member.media_type not in MANIFESTS:
            what = "an index inside an index" if member.media_type in INDEXES else f"media type {member.media_type!r}"
            raise _refused("its index holds something else than manifests", f"manifests[{number}]: {what}")
        if member.size_bytes > MAX_BYTES:
            raise _refused("a manifest of it is too large", f"{member.size_bytes} bytes")
        found.append(member)
    _consistent(found)
    return tuple(found)


def _descriptor(item: object, where: str) -> Descriptor:
    if not isinstance(item, dict):
        raise _refused("its manifest holds something that is no descriptor", f"{where}: {type(item).__name__}")
    if item.get("urls"):
        raise _refused("a layer of it lies somewhere else (a foreign layer)", f"{where}: {str(item['urls'])[:120]}")
    if "nondistributable" in str(item.get("mediaType")) or ".foreign." in str(item.get("mediaType")):
        raise _refused("a layer of it may not be distributed (a foreign layer)", f"{where}: {item.get('mediaType')}")
    if not isinstance(item.get("mediaType"), str):
        raise _refused("its manifest holds a descriptor without a media type", where)
    try:
        return parse_descriptor(item)
    except IntermodalError as error:
        words = (error.message, *error.found) if "digest" in error.message else error.found or (error.message,)
        raise _refused("its manifest holds something that is no descriptor", f"{where}: {'; '.join(words)}") from error


def _consistent(items: Iterable[Descriptor]) -> None:
    """One digest has one size and one kind; anything else is a trap for whoever trusts the first."""
    seen: dict[Digest, Descriptor] = {}
    for item in items:
        known = seen.setdefault(item.digest, item)
        if (known.size_bytes, known.media_type) != (item.size_bytes, item.media_type):
            raise _refused("it describes the same bytes in two ways", f"{item.digest}")


def _digest(value: object, what: str) -> Digest:
    try:
        return Digest.parse(str(value))
    except IntermodalError as error:
        raise _refused(f"it names a {what} that we cannot verify", *(error.message, *error.found)) from error


def _list(document: Mapping[str, Any], key: str, most: int) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list):
        raise _refused(f"it has no list of {key}", type(found).__name__)
    if len(found) > most:
        raise _refused(f"it has too many {key}", f"{len(found)}, at most {most}")
    return found


def _words(value: object) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands there twice")
    return made


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _refused(
            "a document of it is no JSON that we accept", str(error)[:120] or type(error).__name__
        ) from error
    if not isinstance(value, dict):
        raise _refused("a document of it is no JSON object", type(value).__name__)
    return value


def _refused(why: str, *found: str) -> ImageRefusedError:
    shown = ["".join(c if c.isprintable() else "?" for c in line[:300]) for line in found]
    return ImageRefusedError(
        f"the image is refused: {why}", found=shown, next="ask whoever published it; nothing of it was kept"
    )
