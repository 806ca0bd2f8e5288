"""The processes that a child has started, and their memory; all of them die with it, wherever they have gone.

Takes process ids, hands on process ids and bytes; kills only descendants of this process. Linux, by `/proc`.

Rules, in order:
1. This process adopts what its descendants leave behind (as PID 1 does, elsewhere by `PR_SET_CHILD_SUBREAPER`), so
   leaving a process group, a session or a parent leads nowhere but here.
2. An adopted process belongs to the child whose mark stands in the environment it was started with.
3. One without any mark (it was given an environment of its own) belongs to nobody that is known, and goes with the next
   child that ends.
4. Killing is repeated until nothing new is found, because a process may fork while the others are being killed.
"""

from __future__ import annotations

import os
import signal
import sys

MARK = "INTERMODAL_CHILD"
ROUNDS = 100
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Make this process the one that orphans below it are given to; False where that cannot be had."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return os.getpid() == 1


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("latin-1")
    except OSError:
        return ""


def _stat(pid: int | str) -> tuple[str, int] | None:
    """State and parent of a process."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (fields[0], int(fields[1])) if len(fields) > 1 else None


def _children_by_scan(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _stat(name)
            if stat is not None and stat[1] == pid:
                found.append(int(name))
    return found


def children_of(pid: int) -> list[int]:
    """Direct children, zombies too; every thread of a process has a list of its own."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(map(int, file.read().split()))
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{task}"):  # a kernel without these lists
                return _children_by_scan(pid)
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Everything below `pid`, nearest first; zombies too."""
    found, level = [], [pid]
    while level:
        level = [child for parent in level for child in children_of(parent)]
        found.extend(level)
    return found


def mark_of(pid: int) -> str:
    """The mark in the environment that a process was started with, "" for none."""
    for entry in _read(f"/proc/{pid}/environ").split("\0"):
        name, _, value = entry.partition("=")
        if name == MARK:
            return value
    return ""


def alive(pid: int) -> bool:
    """Whether it still runs; a zombie does not."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def _family(pid: int, mark: str, known: set[int]) -> set[int]:
    members = {pid, *descendants(pid)}
    for orphan in children_of(os.getpid()):
        if orphan not in known and orphan not in members and mark_of(orphan) in (mark, ""):
            members |= {orphan, *descendants(orphan)}
    return {member for member in members if alive(member)}


def kill_family(pid: int, mark: str, known: set[int]) -> int:
    """Kill a child and everything it has started; how many processes that were.

    Args:
        pid: the child; it may be dead already.
        mark: of this child.
        known: process ids of the other children, which are spared.
    """
    killed: set[int] = set()
    for _ in range(ROUNDS):
        members = _family(pid, mark, known)
        if not members - killed:
            break
        for member in members:
            try:
                os.kill(member, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        killed |= members
    return len(killed)


def resident_bytes(pid: int) -> int:
    """Memory of one process that the kernel cannot take back: anonymous and shared, no files."""
    found = {}
    for line in _read(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon", "RssShmem"):
            found[name] = int(value.split()[0]) << 10
    if "RssAnon" in found:
        return found["RssAnon"] + found.get("RssShmem", 0)
    return found.get("VmRSS", 0)


def family_bytes(pid: int) -> int:
    """Memory of a process and everything below it."""
    return sum(map(resident_bytes, (pid, *descendants(pid))))
