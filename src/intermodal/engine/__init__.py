"""What runs containers on this machine: one file per engine behind `interface.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intermodal.engine.image import ImageStore
    from intermodal.engine.interface import Engine
    from intermodal.host import Host

__all__ = ["get_engine"]

NAMES = ("sandbox",)


def get_engine(name: str, store: ImageStore, host: Host) -> Engine:
    """The engine called `name`, for images of `store`; nothing is started yet.

    Raises:
        InputError: no engine of that name is built.
    """
    from intermodal.engine.sandbox import SandboxEngine
    from intermodal.errors import InputError

    if name == "sandbox":
        return SandboxEngine(store, host)
    later = name in ("docker", "podman", "containerd")
    raise InputError(
        f"engine {name!r} is not built yet" if later else f"there is no engine {name!r}",
        found=f"engines: {', '.join(NAMES)}",
        next="leave --engine out, or give --engine sandbox",
    )
