"""The base of a lock as an image of its own, so that a Dockerfile can begin `FROM` it.

Takes the lock; hands on an image in the store, made of the very layers that every image of this base begins with:
nothing is downloaded or packed that a build has packed before.

Its name is below `localhost/`: an engine that does not hold it must not ask a registry of strangers for it.
"""

from __future__ import annotations

from msgspec import Struct

from intermodal.errors import NotBuiltYetError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.canonical import canonical_json
from intermodal.oci.config import EPOCH, VARIANTS
from intermodal.oci.descriptor import CONFIG, MANIFEST, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import layer_descriptor, manifest_bytes
from intermodal.project.value import Project
from intermodal.rooms.build.assemble import Assembly
from intermodal.rooms.inspect.card import ModelCard
from intermodal.rooms.lock.rows import Lock


class LocalBase(Struct, frozen=True):
    """A base image in the store."""

    name: str  # "localhost/intermodal/base:bookworm-3f2a…"
    digest: Digest  # of its manifest
    platform: str


def local_base(lock: Lock, card: ModelCard, project: Project, *, store: Store, host: Host, events: Events) -> LocalBase:
    """The base of `lock` for this machine's platform (else the lock's first), as an image of the store.

    Raises:
        NotBuiltYetError: the base is no `deb:` one.
        HostError, DownloadError: a package cannot be had, or byte code not be compiled.
    """
    if not lock.base.reference.startswith("deb:"):
        raise NotBuiltYetError(
            "a Dockerfile on a registry base is not written yet",
            found=f'base = "{lock.base.reference}"',
            next='base = "deb:bookworm" under [environment]',
        )
    platform = host.platform if host.platform in lock.platforms else lock.platforms[0]
    architecture = platform.partition("/")[2]
    with store.session():
        layers = Assembly(lock, card, project, store, host, events).base_layers(platform)
        document: dict[str, object] = {
            "architecture": architecture,
            "os": "linux",
            "created": EPOCH,
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
                "Labels": {"org.opencontainers.image.base.name": lock.base.reference},
            },
            "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
            "history": [{"created": EPOCH, "created_by": layer.title or layer.kind} for layer in layers],
        }
        if architecture in VARIANTS:
            document["variant"] = VARIANTS[architecture]
        config = Descriptor(CONFIG, *store.put_bytes(canonical_json(document)))
        manifest = manifest_bytes(config, [layer_descriptor(layer) for layer in layers])
        found = Descriptor(MANIFEST, *store.put_bytes(manifest), platform=platform)
        name = f"localhost/intermodal/base:{lock.base.suite}-{found.digest.short}"
        store.tag(name, found)
    return LocalBase(name, found.digest, platform)
