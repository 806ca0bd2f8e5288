"""Which engine of this machine the target `local` takes: Docker's where it answers, else podman's.

Takes the host and the folder of the gateway's plan, hands on the path of a socket.

Rules, in order:
1. What somebody chose is taken: `DOCKER_HOST`, Docker's current context, then `CONTAINER_HOST`.
2. While a model is deployed the engine stays the one that has it, also when it does not answer just now.
3. Docker's socket where somebody listens, even one who does not let us in; then podman's, root's first, where one does.
4. Where nobody listens it is Docker's place that is told to be empty.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from intermodal.engine.api import chosen_address, find_socket
from intermodal.host import Host
from intermodal.rooms.deploy.targets.kept import replace_file

PODMAN_SOCKET = Path("/run/podman/podman.sock")
_KEPT = "daemon"
_CONNECT_S = 5.0


def local_socket(host: Host, folder: Path) -> Path:
    """Where the engine to deploy to listens.

    Args:
        host: this machine.
        folder: where the gateway's plan is kept.

    Raises:
        EngineError: `DOCKER_HOST` is on another machine.
    """
    usual = find_socket(host)
    if chosen_address(host):
        return usual
    kind, _, path = host.environment.get("CONTAINER_HOST", "").partition("://")
    if kind == "unix":
        return Path(path)
    with suppress(OSError):
        return Path((folder / _KEPT).read_text())
    if _listens(usual, closed=True):
        return usual
    return next((path for path in _podman(host) if _listens(path, closed=False)), usual)


def keep(folder: Path, path: Path) -> None:
    """Note the engine that has our containers."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(folder / _KEPT, str(path).encode())


def forget(folder: Path) -> None:
    """Nothing of ours is left there."""
    (folder / _KEPT).unlink(missing_ok=True)


def _podman(host: Host) -> list[Path]:
    runtime = host.environment.get("XDG_RUNTIME_DIR", "")
    return [PODMAN_SOCKET, *([Path(runtime) / "podman/podman.sock"] if runtime.startswith("/") else [])]


def _listens(path: Path, *, closed: bool) -> bool:
    """Whether somebody listens there; `closed` is the answer when this user is not let in."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONNECT_S)
            connection.connect(str(path))
    except PermissionError:
        return closed
    except OSError:
        return False
    return True
