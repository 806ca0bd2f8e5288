"""A server's whole tree of processes: CPU seconds so far, and resident memory.

PSS counts a page that n processes share as 1/n of a page in each, RSS as a page in each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """Megabytes of a tree, and of how many processes it consists."""

    rss_mb: float
    pss_mb: float
    processes: int


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def pids(root: int) -> list[int]:
    """The process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
            except OSError:  # it has ended meanwhile
                continue
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """CPU seconds that the tree has used, children that have ended included."""
    total = 0.0
    for pid in pids(root):
        try:
            total += sum(map(int, _stat(pid)[11:15])) * TICK_S
        except OSError:
            continue
    return total


def memory(processes: list[int]) -> Memory:
    """What the processes hold now."""
    rss = pss = 0
    for pid in processes:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            rss += int(line.split()[1]) if line.startswith("Rss:") else 0
            pss += int(line.split()[1]) if line.startswith("Pss:") else 0
    return Memory(rss / 1024, pss / 1024, len(processes))
