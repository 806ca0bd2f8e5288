"""Timing whole processes from outside, alternating between the things that are compared.

Machines are shared and drift, so alternatives run A B A B and medians are quoted with the range they come from; CPU
seconds are the steady figure, and the load of the machine is written down beside them.
"""

from __future__ import annotations

import ctypes
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
    """One measured action: seconds by the clock and of CPU (children included), peak memory of the largest process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int = 0
    out: str = ""

    def __add__(self, other: Run) -> Run:
        """Both, one after the other."""
        peak = max(self.peak_bytes, other.peak_bytes)
        return Run(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, peak, self.out + other.out)


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    orphans: bool = False,
) -> Run:
    """Run a command and account for it and everything it waited for.

    Args:
        command: program and arguments.
        env: its environment; default: ours.
        cwd: where it starts.
        orphans: wait for processes that it left behind, too, and count them: those it killed without waiting for what
            they had started. Only for commands that leave no daemon behind.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        _adopt(orphans)
        others = _children()
        started = time.perf_counter()
        process = subprocess.Popen([str(w) for w in command], env=env, cwd=cwd, stdout=out, stderr=told)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        usages = [usage, *(os.wait4(each, 0)[2] for each in (_children() - others if orphans else ()))]
        process.returncode = os.waitstatus_to_exitcode(status)
        text, error = (_text(stream) for stream in (out, told))
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}\n{(text + error)[-4000:]}")
    cpu_s = sum(each.ru_utime + each.ru_stime for each in usages)
    return Run(wall_s, cpu_s, max(each.ru_maxrss for each in usages) * 1024, text)


def _adopt(orphans: bool) -> None:
    """Whether processes whose parent ends before them become our children from now on."""
    if ctypes.CDLL(None, use_errno=True).prctl(36, int(orphans), 0, 0, 0):  # PR_SET_CHILD_SUBREAPER
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def _children() -> set[int]:
    return {int(word) for path in Path("/proc/self/task").glob("*/children") for word in path.read_text().split()}


def _text(stream: object) -> str:
    stream.seek(0)  # type: ignore[attr-defined]
    return stream.read().decode(errors="replace")  # type: ignore[attr-defined,no-any-return]


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


def words(runs: Sequence[Run]) -> str:
    """Median and range of the clock, and the median of CPU, in seconds: "0.11 (0.10-0.13), CPU 0.09"."""
    low, high = min(r.wall_s for r in runs), max(r.wall_s for r in runs)
    digits = 1 if low >= 10 else 2 if low >= 0.5 else 3
    clock = f"{median_s(runs):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
    return f"{clock}, CPU {median_cpu_s(runs):.{digits}f}"


def load() -> list[float]:
    """How many processes wanted to run, on average of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
