"""Folders for the sockets of running containers, and safe ways to connect to what a container put there.

Takes the host; hands on a private, short-lived folder, and connected sockets.

Rules, in order:
1. The folder above belongs to this user alone; somebody else's folder of that name is refused, never used.
2. Each container's folder is held by a lock for as long as its process lives, and the cache's folders with it. What
   no living process holds was left by a killed one and is removed at the next start, and by `prune`.
3. A container may write in its folder, so what lies there is not believed: a connection goes to a socket and never
   through a link, else an image could make us talk to any socket of this host, the Docker daemon's for example.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import ExitStack
from pathlib import Path

from intermodal.errors import EngineError
from intermodal.host import Host
from intermodal.host.held import Sweep, scratch
from intermodal.oci.folder_once import folders_in_use

SOCKET_NAME = "serve.sock"
METRICS_NAME = "metrics.sock"
GRPC_NAME = "grpc.sock"
_MAX_SOCKET_PATH = 107


class RuntimeFolder:
    """A folder of one container; `remove` must be called."""

    def __init__(self, host: Host) -> None:
        parent = _private(_parents(host)[0])
        Sweep(dry_run=False).abandoned("container", parent)
        self._held = ExitStack()
        self.path = Path()
        try:
            self._held.enter_context(folders_in_use(host.cache_dir))
            self.path = self._held.enter_context(scratch(parent))
        except BaseException as error:
            self._held.close()
            if isinstance(error, OSError):
                raise EngineError("cannot make the folder for sockets", found=str(error)) from error
            raise

    @property
    def socket(self) -> Path:
        """Where the container's server listens."""
        return self.path / SOCKET_NAME

    @property
    def metrics(self) -> Path:
        """Where it offers its metrics."""
        return self.path / METRICS_NAME

    @property
    def grpc(self) -> Path:
        """Where it serves gRPC, when its image does."""
        return self.path / GRPC_NAME

    def remove(self) -> None:
        """Delete the folder; safe to call twice."""
        self._held.close()


def _private(folder: Path) -> Path:
    """`folder`, made when missing, ours alone.

    Raises:
        EngineError: it belongs to somebody else, is a link, or others may write in it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise EngineError("cannot make the folder for sockets", found=f"{folder}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise EngineError(
            f"the folder for sockets {folder} is not safe to use",
            found=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
            next="remove it, or set XDG_RUNTIME_DIR to a folder of your own",
        )
    return folder


def _parents(host: Host) -> list[Path]:
    """Where containers' folders lie: first where new ones go, then where others may have been left."""
    found = [host.runtime_dir, Path(f"/tmp/intermodal-{host.uid}")]  # noqa: S108 - checked to be ours alone
    if len(str(found[0] / "0123456789abcdef.tmp" / METRICS_NAME)) > _MAX_SOCKET_PATH:
        found.reverse()
    return found


def sweep_containers(sweep: Sweep, host: Host) -> None:
    """Remove the folders of containers whose process has ended.

    Raises:
        EngineError: the folder above them is not ours alone.
    """
    for parent in dict.fromkeys(_parents(host)):
        if parent.is_dir():
            sweep.abandoned("container", _private(parent))


def connect_unix(path: Path, timeout_s: float | None = None) -> socket.socket:
    """A connection to the Unix socket at `path`, which may lie in a folder that a container writes in.

    The caller closes it. Works for paths of any length.

    Args:
        path: of the socket.
        timeout_s: for connecting, and of the connection afterwards; 0 never waits.

    Raises:
        BlockingIOError: it listens, but its queue is full.
        OSError: nothing listens there, or it is no socket (a link, for example).
    """
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise ConnectionRefusedError(f"{path} is no socket")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if timeout_s == 0:
                connection.setblocking(False)
            elif timeout_s is not None:  # a Python time-out would give up at once where the queue is full
                seconds, rest = divmod(timeout_s, 1)
                limit = struct.pack("ll", int(seconds), int(rest * 1e6))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.connect(f"/proc/self/fd/{handle}")
            connection.settimeout(timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(handle)
