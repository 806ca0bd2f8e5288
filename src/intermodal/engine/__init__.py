"""What runs containers on this machine: one file per engine behind `interface.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intermodal.engine.interface import Engine
    from intermodal.host import Host
    from intermodal.oci.layout import Store

__all__ = ["NAMES", "get_engine"]

NAMES = ("sandbox", "docker", "podman")


def get_engine(name: str, store: Store, host: Host) -> Engine:
    """The engine called `name`, for images of `store`; nothing is started yet.

    Raises:
        InputError: there is no engine of that name.
        EngineError: its address is on another machine.
    """
    from intermodal.errors import InputError

    if name == "sandbox":
        from intermodal.engine.sandbox import SandboxEngine

        return SandboxEngine(store, host)
    if name == "docker":
        from intermodal.engine.docker import DockerEngine

        return DockerEngine(store, host)
    if name == "podman":
        from intermodal.engine.podman import PodmanEngine

        return PodmanEngine(store, host)
    raise InputError(
        f"there is no engine {name!r}",
        found=f"engines: {', '.join(NAMES)}",
        next="leave --engine out, or give --engine sandbox",
    )
