"""Figures of our own that a stopwatch outside cannot give: time inside the process, and memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

_INSIDE = """
import statistics, sys, time
from intermodal import host, pipeline
name, to, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
own, spent = host.read(), []
for _ in range(runs + 1):
    began = time.perf_counter()
    assert pipeline.push(name, to, host=own).unchanged
    spent.append(time.perf_counter() - began)
print(statistics.median(spent[1:]))
"""

_PEAK = """
import sys, time
from intermodal import host, pipeline
began = time.perf_counter()
pipeline.push(sys.argv[1], sys.argv[2], host=host.read())
spent = time.perf_counter() - began
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), spent)
"""


def unchanged_s(variables: Mapping[str, str], name: str, to: str, runs: int) -> float:
    """The median time of a push that has nothing to send, without starting Python and importing."""
    words = [sys.executable, "-c", _INSIDE, name, to, str(max(runs, 9))]
    return float(subprocess.run(words, env=dict(variables), capture_output=True, text=True, check=True).stdout)


def peak(variables: Mapping[str, str], name: str, to: str) -> tuple[int, float]:
    """The most memory that one push held, in bytes, and how long it took in seconds.

    The kernel's high-water mark of the process itself: what `wait4` tells would include the parent's, from before exec.
    """
    words = [sys.executable, "-c", _PEAK, name, to]
    done = subprocess.run(words, env=dict(variables), capture_output=True, text=True, check=True)
    kilobytes, seconds = done.stdout.split()
    return int(kilobytes) * 1024, float(seconds)
