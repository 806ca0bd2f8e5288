"""What the container may use: cores and memory, from control groups of version 1 and 2, and how much of it is in use.

Takes the root of a file tree ("" is this machine, tests make their own), hands on numbers; changes nothing.

Rules, in order:
1. The group is found by `/proc/self/cgroup` and the mount by `/proc/self/mountinfo`, because groups nest and a
   container sees a mount that begins at its own group. Of the group and all around it the smallest limit counts.
2. Memory in use is what the kernel cannot take back: the group's usage without the page cache, but with shared memory.
3. A fraction of a core counts when it is at least three quarters: 1.5 cores are one thread, since two would be stopped
   for a quarter of the time and all numeric libraries wait for their slowest thread; 1.8 are two; 0.5 is one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

NO_LIMIT_BYTES = 1 << 60  # version 1 writes a huge number where there is no limit


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy is mounted, and which group of it the mount shows."""

    point: str
    shows: str
    controllers: frozenset[str]  # "" stands for version 2


@dataclass(frozen=True)
class MemoryGroup:
    """The group whose memory limit is the smallest around this process."""

    folder: str
    version: int
    limit_bytes: int

    def used_bytes(self) -> int | None:
        """What the kernel cannot take back; None when it does not tell."""
        usage = _number(self.folder, "memory.current" if self.version == 2 else "memory.usage_in_bytes")
        if usage is None:
            return None
        stat = dict(line.split()[:2] for line in _text(self.folder, "memory.stat").splitlines() if " " in line)
        cache, shared = ("file", "shmem") if self.version == 2 else ("total_cache", "total_shmem")
        try:
            return max(0, usage - int(stat.get(cache, 0)) + int(stat.get(shared, 0)))
        except ValueError:
            return usage

    def oom_kills(self) -> int:
        """How many processes of the group the kernel has killed for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        for line in _text(self.folder, name).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0


def _text(*parts: str) -> str:
    try:
        with open(os.path.join(*parts)) as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def _number(*parts: str) -> int | None:
    try:
        return int(_text(*parts))
    except ValueError:
        return None


def _mounts(root: str) -> list[Mount]:
    found = []
    for line in _text(root + "/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            found.append(Mount(root + fields[4], fields[3], frozenset(("",))))
        elif kind[0] == "cgroup":
            found.append(Mount(root + fields[4], fields[3], frozenset(kind[2].split(","))))
    return found


def _groups(root: str) -> dict[str, str]:
    """Path of this process's group by controller; "" is version 2."""
    found: dict[str, str] = {}
    for line in _text(root + "/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(","):
            found[name] = path
    return found


def _folders(root: str, controller: str) -> Iterator[tuple[str, int]]:
    """Folders that may limit this process in `controller`, the process's own first, with the version."""
    groups, mounts = _groups(root), _mounts(root)
    for name, version in ((controller, 1), ("", 2)):
        mount = next((mount for mount in mounts if name in mount.controllers), None)
        if mount is None or name not in groups:
            continue
        path = groups[name]
        shown = mount.shows.rstrip("/")
        if shown and (path + "/").startswith(shown + "/"):
            path = path[len(shown) :]
        parts = [part for part in path.split("/") if part and part != ".."]
        for length in range(len(parts), -1, -1):
            folder = os.path.join(mount.point, *parts[:length])
            if os.path.isdir(folder):
                yield folder, version


def memory_group(root: str = "") -> MemoryGroup | None:
    """The group whose memory limit binds first, None when nothing limits this process."""
    found = []
    for folder, version in _folders(root, "memory"):
        for name in ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",):
            limit = _number(folder, name)
            if limit is not None and 0 < limit < NO_LIMIT_BYTES:
                found.append(MemoryGroup(folder, version, limit))
    return min(found, key=lambda group: group.limit_bytes, default=None)


def machine_bytes(root: str = "") -> int | None:
    """The machine's memory."""
    for line in _text(root + "/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return None


def available_bytes(root: str = "") -> int | None:
    """What the machine could still give to processes."""
    for line in _text(root + "/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def quota_cores(root: str = "") -> float | None:
    """Cores by quota, fractions included; None without a quota."""
    found = []
    for folder, version in _folders(root, "cpu"):
        if version == 2:
            quota, _, period = _text(folder, "cpu.max").strip().partition(" ")
        else:
            quota, period = _text(folder, "cpu.cfs_quota_us"), _text(folder, "cpu.cfs_period_us")
        try:
            if int(quota) > 0 and int(period) > 0:
                found.append(int(quota) / int(period))
        except ValueError:
            continue  # "max", or no such file
    return min(found, default=None)


def _set_size(text: str) -> int:
    """How many numbers a list such as `0-3,7` names."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        try:
            count += int(last or first) - int(first) + 1
        except ValueError:
            continue
    return count


def _cpuset_cores(root: str) -> int | None:
    for folder, _ in _folders(root, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            count = _set_size(_text(folder, name))
            if count:
                return count
    return None


def usable_cores(root: str = "") -> int:
    """How many threads can run at once: the least of affinity, cpuset and quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpuset, quota = _cpuset_cores(root), quota_cores(root)
    if cpuset is not None:
        cores = min(cores, cpuset)
    if quota is not None:
        cores = min(cores, math.floor(quota + 0.25))
    return max(1, cores)
