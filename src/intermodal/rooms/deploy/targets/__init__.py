"""Places to run: one file per target behind `deploy.target`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal.errors import InputError

if TYPE_CHECKING:
    from intermodal.events import Events
    from intermodal.host import Host
    from intermodal.oci.layout import Store
    from intermodal.rooms.deploy.revision import Exposure
    from intermodal.rooms.deploy.target import Target

__all__ = ["NAMES", "get_target"]

NAMES = ("local", "ssh://HOST", "sandbox")


def get_target(name: str, model: str, exposure: Exposure, *, store: Store, host: Host, events: Events) -> Target:
    """The target called `name`, for one model; nothing is started yet.

    Raises:
        InputError: there is no target of that name.
    """
    if name == "sandbox":
        from intermodal.rooms.deploy.targets.sandbox import SandboxTarget

        return SandboxTarget(model, exposure, store=store, host=host, events=events)
    if name == "local" or name.startswith("ssh://"):
        from intermodal.rooms.deploy.targets.docker import DockerTarget

        return DockerTarget(name, model, exposure, store=store, host=host, events=events)
    raise InputError(
        f"there is no target {name!r}",
        found=f"targets: {', '.join(NAMES)}",
        next="--to sandbox tries a rollout on this machine, with nothing installed",
    )
