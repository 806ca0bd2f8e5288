"""A built image as a value: what `build` hands to `check`, and what the store lists."""

from __future__ import annotations

from msgspec import Struct

from intermodal.oci.descriptor import Descriptor, LayerInfo
from intermodal.oci.digest import Digest


class Image(Struct, frozen=True):
    """An image in the local store.

    `descriptor` points at the index when there are several platforms, else at the manifest; `manifests` has one
    descriptor per platform either way.
    """

    name: str  # "digits:1.0.0"
    descriptor: Descriptor
    manifests: tuple[Descriptor, ...]
    layers: tuple[LayerInfo, ...]  # of the first platform
    lock_digest: Digest
    platforms: tuple[str, ...]
    pruned_bytes: int = 0
    seconds: float = 0.0
    unchanged: bool = False  # nothing had to be done

    def manifest_for(self, platform: str) -> Digest:
        """The manifest of `platform`; the only one of an image for one platform, whichever that is."""
        return next((m.digest for m in self.manifests if m.platform == platform), self.manifests[0].digest)

    @property
    def digest(self) -> Digest:
        """The image's digest."""
        return self.descriptor.digest

    @property
    def size_bytes(self) -> int:
        """All layers unpacked."""
        return sum(layer.tar_bytes for layer in self.layers)

    @property
    def compressed_bytes(self) -> int:
        """All layers as stored."""
        return sum(layer.size_bytes for layer in self.layers)

    def as_json(self) -> dict[str, object]:
        """The fields that `build --json` promises."""
        return {
            "name": self.name,
            "digest": str(self.digest),
            "lock_digest": str(self.lock_digest),
            "platforms": list(self.platforms),
            "size_bytes": self.size_bytes,
            "compressed_bytes": self.compressed_bytes,
            "layers": [
                {
                    "digest": str(layer.digest),
                    "diff_id": str(layer.diff_id),
                    "size_bytes": layer.size_bytes,
                    "tar_bytes": layer.tar_bytes,
                    "kind": layer.kind,
                    "title": layer.title,
                    "reused": layer.reused,
                }
                for layer in self.layers
            ],
            "pruned_bytes": self.pruned_bytes,
            "seconds": round(self.seconds, 3),
            "unchanged": self.unchanged,
        }
