"""Run one command confined in a few layers: what the byte-code compiler uses on a base that may be anybody's.

Takes unpacked layers and a command; hands on the running process. No network, no capabilities, a system call filter,
nothing writable but /tmp and /dev/shm; `available` says whether this host permits it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from intermodal.engine import bwrap
from intermodal.engine.ability import ability
from intermodal.engine.rootfs import compose
from intermodal.errors import EngineError
from intermodal.host import Host

_NOTHING: Mapping[str, str] = {}
_NO_BINDS: Mapping[str, Path] = {}


def available(host: Host) -> str | None:
    """Why commands cannot be confined on this host; None when they can."""
    try:
        found = ability(host)
    except EngineError as error:
        return "; ".join([error.message, *error.found])
    return found.why if found.way == "loader" else None


def run_confined(
    layers: Sequence[Path],
    argv: Sequence[str],
    *,
    host: Host,
    environment: Mapping[str, str] = _NOTHING,
    binds_ro: Mapping[str, Path] = _NO_BINDS,
    stdin: int | IO[bytes] | None = subprocess.PIPE,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """The running command; the caller waits for it and closes its pipes.

    It is killed when the calling thread ends, so start it in the thread that waits for it.

    Args:
        layers: unpacked layers, lowest first, below the host's cache folder.
        argv: command, as seen from inside; it gets exactly `environment` and starts in /.
        host: this machine.
        environment: its variables.
        binds_ro: absolute folder inside -> folder of this host, to be read only.
        stdin: as for `subprocess.Popen`.
        stdout: as for `subprocess.Popen`.
        stderr: as for `subprocess.Popen`; thrown away unless asked for.

    Raises:
        EngineError: this host cannot confine; ask `available` first.
    """
    found = ability(host)
    if found.way == "loader":
        raise EngineError("this host cannot confine a command", found=found.why)
    root = compose(layers, found.way, host.cache_dir, [*bwrap.MOUNT_POINTS, *sorted(binds_ro)])
    walls = bwrap.Walls(root.arguments, environment, bound_read_only=binds_ro)
    return bwrap.spawn(walls, argv, host.architecture, stdin=stdin, stdout=stdout, stderr=stderr)
