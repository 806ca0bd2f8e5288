"""The most memory that a command and everything it started held at one moment, shared pages counted once."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

EVERY_S = 0.02


def peak_bytes(command: Sequence[str | Path], *, env: Mapping[str, str]) -> tuple[int, int]:
    """Peak of the sum over the process tree (PSS, sampled) and of the largest process (exact).

    Raises:
        RuntimeError: the command failed.
    """
    process = subprocess.Popen([str(w) for w in command], env=dict(env), stdout=subprocess.DEVNULL)
    peak = 0
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        peak = max(peak, sum(_pss(each) for each in _tree(process.pid)))
        time.sleep(EVERY_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return peak, usage.ru_maxrss * 1024


def _tree(root: int) -> list[int]:
    found = [root]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def _pss(process: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
