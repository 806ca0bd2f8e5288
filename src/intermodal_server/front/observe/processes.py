"""Gauges of processes: the front's and its twins' own, and the memory of each worker.

Takes process ids, reads `/proc` when a page is made, hands on families. Where there is no `/proc` there are no gauges.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Collection, Iterator, Mapping

from intermodal_server.front.observe.exposition import Family, Sample

_PAGE_BYTES = resource.getpagesize()


def resident_bytes(pid: int | str) -> int | None:
    """Resident memory of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def open_descriptors(pid: int | str) -> int | None:
    """Descriptors that a process has open, None when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def cpu_s() -> float:
    """CPU time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def process_families(
    since_s: float, workers: Mapping[int, int], twins: Collection[int] = (), twins_cpu_s: float = 0.0
) -> Iterator[Family]:
    """The front as Prometheus names it, and the workers.

    Args:
        since_s: when the front began, in seconds since the epoch.
        workers: process ids by number.
        twins: process ids.
        twins_cpu_s: what twins have used, dead ones too.
    """
    used_s = cpu_s() + twins_cpu_s
    yield Family("process_cpu_seconds", "counter", "CPU time of the front and its twins.", [("", (), used_s)])
    yield Family("process_start_time_seconds", "gauge", "When the front began.", [("", (), since_s)])
    own = resident_bytes("self")
    if own is None:
        return
    own += sum(resident_bytes(pid) or 0 for pid in twins)
    text = "Resident memory of the front and its twins."
    yield Family("process_resident_memory_bytes", "gauge", text, [("", (), own)])
    descriptors = open_descriptors("self")
    if descriptors is None:
        return
    descriptors += sum(open_descriptors(pid) or 0 for pid in twins)
    text = "Open descriptors of the front and its twins."
    yield Family("process_open_fds", "gauge", text, [("", (), descriptors)])
    samples: list[Sample] = []
    for number, pid in sorted(workers.items()):
        size = resident_bytes(pid)
        if size is not None:
            samples.append(("", (("worker", str(number)),), size))
    yield Family("intermodal_worker_resident_memory_bytes", "gauge", "Resident memory of each model process.", samples)
