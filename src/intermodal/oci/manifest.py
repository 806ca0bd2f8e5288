"""Manifests and indexes as bytes, and the checks a stored one must pass before it is used.

Takes descriptors, hands on canonical JSON; equal descriptors are equal bytes and one digest.

Spec: OCI image-spec 1.1, "OCI Image Manifest"; "OCI Image Index".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from intermodal.errors import StoreError
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import INDEX, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest

MAX_BYTES = 4 << 20


def layer_descriptor(layer: LayerInfo, media_type: str = LAYER_GZIP) -> Descriptor:
    """What a manifest says of a layer."""
    return Descriptor(media_type, layer.digest, layer.size_bytes)


def manifest_bytes(
    config: Descriptor, layers: Iterable[Descriptor], annotations: Mapping[str, str] | None = None
) -> bytes:
    """An image manifest."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return canonical_json(document)


def index_bytes(manifests: Iterable[Descriptor], annotations: Mapping[str, str] | None = None) -> bytes:
    """An image index, for images of several platforms and for the store's own list."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [manifest.as_json() for manifest in manifests],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return canonical_json(document)


def parse_descriptor(document: Mapping[str, Any]) -> Descriptor:
    """The descriptor that `Descriptor.as_json` wrote; a foreign one's `urls` and `data` are ignored.

    Raises:
        StoreError: a field is missing or of the wrong kind.
    """
    try:
        platform = document.get("platform")
        size_bytes = document["size"]
        if type(size_bytes) is not int or size_bytes < 0:
            raise ValueError(f"size {size_bytes!r}")
        return Descriptor(
            str(document["mediaType"]),
            Digest.parse(str(document["digest"])),
            size_bytes,
            {str(k): str(v) for k, v in document.get("annotations", {}).items()},
            f"{platform['os']}/{platform['architecture']}" if platform else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError("a document holds something that is no descriptor", found=str(error)) from error
