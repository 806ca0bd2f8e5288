"""Images of a few kilobytes, whole and valid, for tests that move images and never run them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import index_bytes, manifest_bytes
from support.layered import layer


def noise(size: int, seed: int) -> bytes:
    """Bytes that do not compress, always the same."""
    return random.Random(seed).randbytes(size)


def small_image(
    store: Store,
    name: str = "small:1",
    *,
    contents: Sequence[bytes] = (b"base", b"app"),
    labels: Mapping[str, str] | None = None,
    architecture: str = "amd64",
) -> Descriptor:
    """The descriptor of an image with one layer of one file each; "" as name lists it nowhere."""
    layers = []
    for number, content in enumerate(contents):
        tar = layer({f"/app/file-{number}": content})
        digest, size = store.put_bytes(gzip.compress(tar, 1, mtime=0))
        layers.append(LayerInfo(digest, Digest.of(tar), size, len(tar), "app"))
    config = config_bytes(layers=layers, architecture=architecture, python="3.11", labels=dict(labels or {}))
    digest, size = store.put_bytes(config)
    data = manifest_bytes(
        Descriptor(CONFIG, digest, size), [Descriptor(LAYER_GZIP, x.digest, x.size_bytes) for x in layers]
    )
    digest, size = store.put_bytes(data)
    made = Descriptor(MANIFEST, digest, size)
    if name:
        store.tag(name, made)
    return made


def two_platforms(store: Store, name: str = "both:1") -> Descriptor:
    """The descriptor of an index with an image for each of our platforms."""
    members = []
    for architecture in ("amd64", "arm64"):
        made = small_image(store, "", contents=(b"both", architecture.encode()), architecture=architecture)
        members.append(Descriptor(MANIFEST, made.digest, made.size_bytes, {}, f"linux/{architecture}"))
    digest, size = store.put_bytes(index_bytes(members))
    made = Descriptor(INDEX, digest, size)
    store.tag(name, made)
    return made


def documents(store: Store, image: Descriptor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and config."""
    manifest = json.loads(store.read_bytes(image.digest))
    return manifest, json.loads(store.read_bytes(Digest.parse(manifest["config"]["digest"])))
