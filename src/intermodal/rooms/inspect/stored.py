"""What an image says of itself: model, signature, versions and lock, from its labels; no layer is fetched or read.

Takes the name of an image in the store, or a reference to one in a registry; hands on an `ImageCard`. Labels are the
claim of whoever built the image: `check` proves them, and `verify` tells who vouches for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from intermodal.errors import ImageRefusedError, InputError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.labels import gathered
from intermodal.oci.layout import Store
from intermodal.registry.documents import Config, Index, Manifest, parse_config, parse_manifest
from intermodal_server import contract

_PYTHON = re.compile(r"(?:^|/)python(3\.\d+)$")


class ImageCard(Struct, frozen=True):
    """One image, as its labels tell."""

    reference: str
    where: str  # "store" | "registry"
    digest: Digest  # what the reference stands for: of the index, when there is one
    platforms: tuple[str, ...]
    layers: int
    size_bytes: int  # layers of one platform, as stored
    python: str
    labels: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """The fields of a model card, as far as labels know them, and the image's own."""
        framework, _, version = self.labels.get(contract.LABEL_FRAMEWORK, "").partition(" ")
        return {
            "reference": self.reference,
            "where": self.where,
            "digest": str(self.digest),
            "platforms": list(self.platforms),
            "layers": self.layers,
            "size_bytes": self.size_bytes,
            "format": self.labels.get(contract.LABEL_FORMAT, ""),
            "framework": framework,
            "versions": {framework: version} if framework and version else {},
            "python": self.python,
            "signature": self.signature(),
            "lock_digest": self.labels.get(contract.LABEL_LOCK_DIGEST, ""),
            "golden_digest": self.labels.get(contract.LABEL_GOLDEN_DIGEST, ""),
            "findings": [],
            "safe": None,  # labels cannot say so
            "labels": dict(sorted(self.labels.items())),
        }

    def signature(self) -> dict[str, Any]:
        """Inputs and outputs; empty when the image has none, or none that can be understood."""
        try:
            found = contract.Signature.from_json(json.loads(gathered(self.labels, contract.LABEL_SIGNATURE)))
        except (ValueError, KeyError, TypeError, RecursionError):  # ContractError is a ValueError
            return {"inputs": [], "outputs": []}
        return found.as_json()


def inspect_reference(
    reference: str, *, store: Store, host: Host, events: Events = SILENT, plain_http: bool = False
) -> ImageCard:
    """The card of an image in the store, else of one in a registry that the reference names.

    Raises:
        UnknownImageError: there is none.
        ImageRefusedError: what the registry has breaks its format.
        RegistryError: the registry refuses, or cannot be reached.
    """
    from intermodal.registry.reference import names_registry

    try:
        descriptor = store.resolve(reference)
    except InputError:
        if not names_registry(reference):
            raise
        return _remote(reference, host, events, plain_http=plain_http)
    parsed = parse_manifest(store.read_bytes(descriptor.digest), descriptor)
    member, platforms = _one(parsed, host.platform)
    manifest = parsed if member is None else parse_manifest(store.read_bytes(member.digest), member)
    assert isinstance(manifest, Manifest)
    config = parse_config(store.read_bytes(manifest.config.digest), manifest)
    return _card(reference, "store", descriptor.digest, platforms, manifest, config)


def _remote(reference: str, host: Host, events: Events, *, plain_http: bool) -> ImageCard:
    from intermodal.registry.client import Registries
    from intermodal.registry.reference import parse_remote

    remote = parse_remote(reference, "latest")
    with Registries(host) as registries, events.task(f"ask {remote.registry}"):
        repository = registries.repository(remote, plain_http=plain_http)
        top = repository.manifest(remote.target)
        parsed = parse_manifest(top.data, top.descriptor)
        member, platforms = _one(parsed, host.platform)
        if member is not None:
            document = repository.manifest(str(member.digest), member)
            parsed = parse_manifest(document.data, document.descriptor)
        if not isinstance(parsed, Manifest) or not parsed.is_image:
            raise ImageRefusedError(f"{remote} is no image", found="its config is of another kind")
        config = parse_config(repository.small_blob(parsed.config), parsed)
    return _card(str(remote), "registry", top.descriptor.digest, platforms, parsed, config)


def _one(parsed: Manifest | Index, platform: str) -> tuple[Descriptor | None, tuple[str, ...]]:
    """The member of an index to look at, this machine's if there is one; and all platforms."""
    if isinstance(parsed, Manifest):
        return None, ()
    images = [item for item in parsed.manifests if item.platform not in (None, "unknown/unknown")]
    if not images:
        raise ImageRefusedError("the index holds no image", found=f"{len(parsed.manifests)} manifests")
    chosen = next((item for item in images if item.platform == platform), images[0])
    return chosen, tuple(str(item.platform) for item in images)


def _card(
    reference: str, where: str, digest: Digest, platforms: tuple[str, ...], manifest: Manifest, config: Config
) -> ImageCard:
    python = next((m[1] for word in config.entrypoint if (m := _PYTHON.search(word))), "")
    return ImageCard(
        reference=reference,
        where=where,
        digest=digest,
        platforms=platforms or (config.platform,),
        layers=len(manifest.layers),
        size_bytes=sum(layer.size_bytes for layer in manifest.layers),
        python=python,
        labels=config.labels,
    )
