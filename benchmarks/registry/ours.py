"""Figures of our own that a stopwatch outside cannot give: time inside the process, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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


def unchanged_s(variables: Mapping[str, str], name: str, to: str, runs: int) -> float:
    """The median time of a push that has nothing to send, without starting Python and importing."""
    words = [sys.executable, "-c", _INSIDE, name, to, str(max(runs, 9))]
    return float(subprocess.run(words, env=dict(variables), capture_output=True, text=True, check=True).stdout)


def peak(variables: Mapping[str, str], name: str, to: str) -> tuple[int, float]:
    """The most memory that one push held, in bytes, and how long it took in seconds."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "intermodal", "push", "-q", name, to]
    process = subprocess.Popen(words, env=dict(variables), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return usage.ru_maxrss * 1024, time.perf_counter() - began
