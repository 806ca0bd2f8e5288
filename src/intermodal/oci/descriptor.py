"""Descriptors and media types: how one document points at other bytes.

Spec: OCI image-spec 1.1, "OCI Content Descriptors"; "Media Types".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

from intermodal.oci.digest import Digest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"

# What others push; read, never written.
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = (INDEX, DOCKER_INDEX)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
CONFIGS = (CONFIG, DOCKER_CONFIG)

Compression = Literal["gzip", "zstd", "none"]
LAYER_COMPRESSION: Mapping[str, Compression] = {
    LAYER_GZIP: "gzip",
    DOCKER_LAYER: "gzip",
    LAYER_ZSTD: "zstd",
    DOCKER_LAYER_ZSTD: "zstd",
    LAYER_TAR: "none",
    DOCKER_LAYER_TAR: "none",
}


# What configs of ours say of an architecture, too: crane refuses an index that says less than its configs.
VARIANTS: Mapping[str, str] = {"arm64": "v8"}


class Descriptor(Struct, frozen=True):
    """What some stored bytes are, how many, and their digest."""

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: str | None = None  # "linux/amd64"; only inside an index

    def as_json(self) -> dict[str, object]:
        """The descriptor as the specification writes it."""
        document: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size_bytes,
        }
        if self.platform:
            system, _, architecture = self.platform.partition("/")
            variant = {"variant": VARIANTS[architecture]} if architecture in VARIANTS else {}
            document["platform"] = {"architecture": architecture, "os": system, **variant}
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        return document


class LayerInfo(Struct, frozen=True):
    """A finished layer: its stored bytes, its plain tar, and what it is for."""

    digest: Digest
    diff_id: Digest
    size_bytes: int  # as stored (compressed)
    tar_bytes: int  # uncompressed
    kind: str = ""  # base | debian | wheel | wheels | server | model | app
    title: str = ""  # for people: "numpy 2.4.6", "17 small wheels"
    reused: bool = False  # taken from the cache instead of written now
    pruned_bytes: int = 0
