"""`load`: an image of the store into an engine of this machine, moving only what is missing there.

Takes a manifest's digest and a name; hands on a `LoadReport`. How each engine is fed lies in its own file.
"""

from __future__ import annotations

import time
from typing import Literal, get_args

from msgspec import Struct

from intermodal.engine.archive import Loader, image_name, read_parts
from intermodal.errors import InputError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.reference import parse_name

Into = Literal["docker", "podman", "containerd"]


class LoadReport(Struct, frozen=True):
    """What `load` moved."""

    engine: str
    name: str
    image: str  # the engine's own id for it
    layers_total: int
    layers_sent: int
    bytes_sent: int
    seconds: float

    def as_json(self) -> dict[str, object]:
        """All fields."""
        return {
            "engine": self.engine,
            "name": self.name,
            "image": self.image,
            "layers_total": self.layers_total,
            "layers_sent": self.layers_sent,
            "bytes_sent": self.bytes_sent,
            "seconds": round(self.seconds, 3),
        }


def load(image: Digest, name: str, *, into: str, store: Store, host: Host, events: Events = SILENT) -> LoadReport:
    """The report on an image that the engine now holds under `name`.

    Args:
        image: manifest's digest.
        name: "digits:1.0.0", as the engine shall list it.
        into: docker | podman | containerd.
        store: where the image lies.
        host: this machine.
        events: where progress goes.

    Raises:
        EngineError: the engine is missing or refused.
        StoreError: the image is damaged.
        InputError: there is no such engine.
    """
    began = time.monotonic()
    loader = _loader(into, store, host)
    parts = read_parts(store, image)
    with store.session():  # `prune` waits until every blob has been read
        sent = loader.load(parts, name, events)
    return LoadReport(
        engine=into,
        name=name,
        image=sent.image,
        layers_total=len(parts.layers),
        layers_sent=sent.layers,
        bytes_sent=sent.bytes,
        seconds=time.monotonic() - began,
    )


def name_for(image: Digest, wanted: str | None, store: Store) -> str:
    """The name to load an image under: `wanted`, with a tag, else the one the store lists it under.

    Raises:
        InputError: `wanted` is no image name.
    """
    if wanted is None:
        return image_name(store, image)
    name, tag = parse_name(wanted)
    return f"{name}:{tag or 'latest'}"


def _loader(into: str, store: Store, host: Host) -> Loader:
    if into == "docker":
        from intermodal.engine.docker import DockerDriver

        return DockerDriver(store, host)
    if into == "podman":
        from intermodal.engine.podman import PodmanDriver

        return PodmanDriver(store, host)
    if into == "containerd":
        from intermodal.engine.containerd import ContainerdLoader

        return ContainerdLoader(store, host)
    raise InputError(f"cannot load into {into!r}", found=f"one of {', '.join(get_args(Into))} is expected")
