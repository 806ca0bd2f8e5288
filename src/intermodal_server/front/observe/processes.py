"""Gauges of processes: the front's own, and the memory of each worker.

Takes process ids, reads `/proc` when a page is made, hands on families. Where there is no `/proc` there are no gauges.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping

from intermodal_server.front.observe.exposition import Family, Sample

_PAGE_BYTES = resource.getpagesize()


def resident_bytes(pid: int | str) -> int | None:
    """Resident memory of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def process_families(since_s: float, workers: Mapping[int, int]) -> Iterator[Family]:
    """The front as Prometheus names it, and the workers.

    Args:
        since_s: when the front began, in seconds since the epoch.
        workers: process ids by number.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime
    yield Family("process_cpu_seconds", "counter", "CPU time of the front.", [("", (), cpu_s)])
    yield Family("process_start_time_seconds", "gauge", "When the front began.", [("", (), since_s)])
    own = resident_bytes("self")
    if own is None:
        return
    yield Family("process_resident_memory_bytes", "gauge", "Resident memory of the front.", [("", (), own)])
    try:
        descriptors = len(os.listdir("/proc/self/fd"))
    except OSError:
        return
    yield Family("process_open_fds", "gauge", "Open descriptors of the front.", [("", (), descriptors)])
    samples: list[Sample] = []
    for number, pid in sorted(workers.items()):
        size = resident_bytes(pid)
        if size is not None:
            samples.append(("", (("worker", str(number)),), size))
    yield Family("intermodal_worker_resident_memory_bytes", "gauge", "Resident memory of each model process.", samples)
