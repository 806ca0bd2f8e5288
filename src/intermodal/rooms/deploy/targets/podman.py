"""What podman does otherwise than Docker, though it speaks Docker's API.

Takes what podman says of itself and bodies made for Docker, hands on refusals and bodies for podman; no I/O.

Rules, in order:
1. Only podman of root with the network back end `netavark`: there the machine has an address in a network without a way
   out. With the old back end (CNI) it has none, and the networks of rootless podman lie in a namespace of their own.
2. Replicas and the gateway have the restart policy `always`, because `podman-restart.service`, which brings them back
   after a reboot, looks for no other.
3. A container that was asked to end is renamed: podman cannot change a restart policy later, and the name is what
   another process reads.
4. Limits are stated in full, and never above ours: podman raises what is not stated, for which it may lack the right.
5. The filter of system calls is podman's own, made stricter where podman is on this machine and can read ours.
6. Podman puts writable folders over a read-only root; those that nobody needs belong to root and hold next to nothing.

Spec: Docker Engine API 1.41; podman's own API 4.0, `GET /libpod/info`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intermodal.engine.podman_words import limits
from intermodal.errors import EngineError

ENDING = "intermodal-ending-"  # before the id, in the name of a container that was asked to end
# The states that Docker does not have, as what they are there: `stopped` has ended and is about to be started again.
_STATES = {"stopping": "running", "stopped": "restarting", "initialized": "created", "configured": "created"}
_CLOSED = "rw,nosuid,nodev,noexec,mode=555,size=64k"


def refuse(info: Mapping[str, Any]) -> None:
    """Return when this podman can be deployed to.

    Args:
        info: what it answers to `GET /libpod/info`.

    Raises:
        EngineError: its networks keep the gateway from its replicas; says what to change.
    """
    host = info.get("host") or {}
    if (host.get("security") or {}).get("rootless"):
        raise EngineError(
            "rootless podman is no place to deploy to",
            found="its networks lie in a namespace of their own, where the gateway cannot reach its replicas",
            next=(
                "take root's: sudo systemctl enable --now podman.socket, then deploy as root",
                "or: --to sandbox, to try it out",
            ),
        )
    backend = str(host.get("networkBackend") or "cni")
    if backend != "netavark":
        raise EngineError(
            "this podman is no place to deploy to",
            found=f"its network back end is {backend!r}, not 'netavark': there the gateway cannot reach its replicas",
            next=(
                "install the packages netavark and aardvark-dns (Debian: sudo apt install netavark aardvark-dns)",
                'then, where podman was used before: network_backend = "netavark" under [network] in '
                "/etc/containers/containers.conf",
                "or take Docker",
            ),
        )


def body(made: Mapping[str, Any], profile: Path | None) -> dict[str, Any]:
    """A container's body as podman needs it.

    Args:
        made: the one for Docker.
        profile: the filter of system calls, a file that podman reads when it makes the container; None: its own.
    """
    host = dict(made["HostConfig"])
    host["RestartPolicy"] = {"Name": "always"}
    stated = [word.partition("=") for word in limits()[1::2]]
    host["Ulimits"] = [
        {"Name": name, "Soft": int(value.partition(":")[0]), "Hard": int(value.partition(":")[2])}
        for name, _, value in stated
    ]
    if profile is not None:
        host["SecurityOpt"] = [*host.get("SecurityOpt", ()), f"seccomp={profile}"]
    if host.get("ReadonlyRootfs"):
        host["Tmpfs"] = {"/run": _CLOSED, "/var/tmp": _CLOSED, **host.get("Tmpfs", {})}  # noqa: S108 - inside
    return {**made, "HostConfig": host}


def state(said: str) -> str:
    """A container's state in Docker's words."""
    return _STATES.get(said, said)
