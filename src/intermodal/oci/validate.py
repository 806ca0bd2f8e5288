"""One validator: recomputes everything that an image in the store claims, and lists all faults at once.

Takes a `Store` and a descriptor; hands on faults in words, none when the image is sound.

Rules: every blob has the digest and size that its descriptor says; media types are what they should be; the config
names one diff id per layer, and each is the digest of that layer unpacked; the platforms of an index are those of its
configs.

Spec: OCI image-spec 1.1, "OCI Image Manifest"; "OCI Image Configuration"; "Image Layer Filesystem Changeset".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from intermodal.errors import IntermodalError
from intermodal.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import parse_descriptor


def validate(store: Store, descriptor: Descriptor) -> tuple[str, ...]:
    """Everything that is wrong with an image; empty when it is sound."""
    if descriptor.media_type != INDEX:
        return tuple(_manifest_faults(store, descriptor))
    try:
        listed = [parse_descriptor(item) for item in store.document(descriptor)["manifests"]]
    except (IntermodalError, KeyError, TypeError) as error:
        return (f"index {descriptor.digest.short}: {_words(error)}",)
    return tuple(fault for item in listed for fault in _manifest_faults(store, item))


def _manifest_faults(store: Store, descriptor: Descriptor) -> Iterator[str]:
    where = f"manifest {descriptor.digest.short}"
    try:
        manifest = store.document(descriptor)
        config_descriptor = parse_descriptor(manifest["config"])
        layers = [parse_descriptor(layer) for layer in manifest["layers"]]
    except (IntermodalError, KeyError, TypeError) as error:
        yield f"{where}: {_words(error)}"
        return
    if descriptor.media_type != MANIFEST or manifest.get("mediaType") != MANIFEST or manifest.get("schemaVersion") != 2:
        yield f"{where}: its media type or schema version is wrong"
    if "manifests" in manifest:
        yield f"{where}: it is a manifest and an index"
    if config_descriptor.media_type != CONFIG:
        yield f"{where}: its config has media type {config_descriptor.media_type}"
    try:
        config = store.document(config_descriptor)
    except IntermodalError as error:
        yield f"config {config_descriptor.digest.short}: {_words(error)}"
        config = {}
    yield from _config_faults(config, descriptor, where)
    diff_ids = _diff_ids(config)
    if config and len(diff_ids) != len(layers):
        yield f"{where}: {len(layers)} layers, but {len(diff_ids)} diff ids"
    for number, layer in enumerate(layers):
        expected = diff_ids[number] if number < len(diff_ids) else None
        yield from _layer_faults(store, layer, expected)


def _config_faults(config: dict[str, Any], descriptor: Descriptor, where: str) -> Iterator[str]:
    platform = f"{config.get('os')}/{config.get('architecture')}"
    if config and descriptor.platform and platform != descriptor.platform:
        yield f"{where}: listed for {descriptor.platform}, its config says {platform}"
    history = config.get("history", [])
    if history and sum(not step.get("empty_layer") for step in history) != len(_diff_ids(config)):
        yield f"{where}: its history has another number of layers than its root file system"


def _diff_ids(config: dict[str, Any]) -> list[str]:
    found = config.get("rootfs", {}).get("diff_ids", [])
    return [str(item) for item in found] if isinstance(found, list) else []


def _layer_faults(store: Store, layer: Descriptor, diff_id: str | None) -> Iterator[str]:
    where = f"layer {layer.digest.short}"
    if layer.media_type != LAYER_GZIP:
        yield f"{where}: media type {layer.media_type}"
    try:
        digest, size_bytes = Digest.of_file(store.path(layer.digest))
    except OSError as error:
        yield f"{where}: {error.strerror}"
        return
    if digest != layer.digest:
        yield f"{where}: its bytes are {digest.short}"
    if size_bytes != layer.size_bytes:
        yield f"{where}: {size_bytes} bytes, {layer.size_bytes} expected"
    if diff_id is not None and layer.media_type == LAYER_GZIP:
        yield from _diff_id_faults(store, layer, diff_id, where)


def _diff_id_faults(store: Store, layer: Descriptor, diff_id: str, where: str) -> Iterator[str]:
    from isal import igzip

    hasher = hashlib.sha256()
    try:
        with igzip.IGzipFile(str(store.path(layer.digest)), "rb") as plain:  # type: ignore[no-untyped-call]
            while chunk := plain.read(CHUNK_BYTES):
                hasher.update(chunk)
    except (OSError, EOFError, ValueError) as error:
        yield f"{where}: it does not inflate ({error})"
        return
    if f"sha256:{hasher.hexdigest()}" != diff_id:
        yield f"{where}: unpacked it is sha256:{hasher.hexdigest()[:12]}, the config says {diff_id[:19]}"


def _words(error: Exception) -> str:
    if isinstance(error, IntermodalError):
        return "; ".join((error.message, *error.found))
    return f"not a document of its kind ({error!r})"
