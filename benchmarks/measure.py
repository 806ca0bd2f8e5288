"""Timing whole processes from outside, alternating between the things that are compared.

Machines are shared and drift, so alternatives run A B A B and medians are quoted; CPU seconds are the steady figure.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One finished process: seconds by the clock and of CPU (children included), peak memory of the largest one."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    code: int
    out: str


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Run:
    """Run a command and account for it and everything it waited for."""
    with tempfile.TemporaryFile() as out:
        started = time.perf_counter()
        process = subprocess.Popen([str(w) for w in command], env=env, cwd=cwd, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}\n{text[-4000:]}")
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, process.returncode, text)


def alternate(alternatives: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Every alternative once per round, in turn."""
    results: dict[str, list[Run]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, action in alternatives.items():
            results[name].append(action())
    return results


def median_s(runs: Sequence[Run]) -> float:
    """The median of the seconds by the clock."""
    return statistics.median(r.wall_s for r in runs)


def median_cpu_s(runs: Sequence[Run]) -> float:
    """The median of the CPU seconds."""
    return statistics.median(r.cpu_s for r in runs)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"### {title}", "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])
