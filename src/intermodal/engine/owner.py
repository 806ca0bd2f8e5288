"""Whose container this is: a label that lets a later process see whether the owner still lives.

Takes nothing; hands on the label's value for this process, and a judgement on other values.

Rules: a value names host, boot, process namespace, process and its start time. It is stale only when we can be sure:
the same host, and either an earlier boot or a process that has ended. Another host or namespace (a container that
talks to our daemon) cannot be looked into, so its containers are left alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from intermodal.oci.folder_once import boot_id

OWNER_LABEL = "dev.intermodal.owner"


def owner(pid: int | None = None) -> str:
    """The value for a process, this one by default: "HOST BOOT NAMESPACE PID STARTED"."""
    pid = os.getpid() if pid is None else pid
    return " ".join((os.uname().nodename or "-", boot_id(), _namespace(), str(pid), _started(pid)))


def is_stale(value: str) -> bool:
    """Whether the process that `value` names has certainly ended."""
    words = value.split(" ")
    if len(words) != 5 or not words[3].isdigit():
        return False
    node, boot, namespace, pid, started = words
    if node != os.uname().nodename:
        return False
    if boot != boot_id():
        return True
    if namespace != _namespace():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass  # somebody else's process: it lives
    now = _started(int(pid))
    return "-" not in (now, started) and now != started


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; tells it from a later one with its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "-"
