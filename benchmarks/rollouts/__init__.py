"""What rollouts cost: `./dev bench rollouts [--runs N] [--blocks N] [--update]`.

One model on a Docker engine that the benchmark starts itself, under a constant load, deployed by the command line as a
person would. The table goes to standard output, every single figure into benchmarks/out/rollouts.json;
docs/benchmarks.md says how each is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.measure import load, table

CHECKOUT = Path(__file__).parents[2]
RESULTS = CHECKOUT / "benchmarks" / "out" / "rollouts.json"
START, END = "<!-- ./dev bench rollouts --update -->", "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was found in each run, in its unit, and the most that it may be (0: no limit)."""

    what: str
    found: Sequence[float]
    unit: str
    most: float = 0.0
    note: str = ""

    @property
    def words(self) -> str:
        """Median and range."""
        if not self.found:
            return "nothing was measured"
        middle, low, high = median(self.found), min(self.found), max(self.found)
        return f"{middle:.3g} {self.unit} ({low:.3g}-{high:.3g}, {len(self.found)})"

    @property
    def verdict(self) -> str:
        """Whether the median keeps the limit."""
        if not self.most:
            return ""
        if not self.found:
            return "not measured"
        over = median(self.found) / self.most - 1
        return "holds" if over <= 0 else f"missed by {100 * over:.0f} %"


def main(arguments: Sequence[str]) -> None:
    """Prepare, measure, print."""
    options = _options(arguments)
    sys.path.insert(0, str(CHECKOUT / "tests"))
    from benchmarks.rollouts.ground import ground
    from benchmarks.rollouts.rows import all_rows

    loads = [load()[0]]
    with ground() as here:
        rows: list[Row] = []
        for row in all_rows(here, runs=options.runs, blocks=options.blocks):
            loads.append(load()[0])
            rows.append(row)
            print(f"bench: {row.what}: {row.words} {row.verdict}", file=sys.stderr, flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps([{"what": row.what, "found": list(row.found), "unit": row.unit} for row in rows]))
    text = markdown(rows, loads)
    if options.update:
        update(CHECKOUT / "docs" / "benchmarks.md", text)
    print(text)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench rollouts")
    parser.add_argument("--runs", type=int, default=7, help="rollouts, and restarts of the gateway")
    parser.add_argument("--blocks", type=int, default=15, help="blocks of requests, directly and through the gateway")
    parser.add_argument("--update", action="store_true", help="put the table into docs/benchmarks.md, too")
    return parser.parse_args(arguments)


def markdown(rows: Sequence[Row], loads: Sequence[float]) -> str:
    """The table, and the machine it comes from."""
    lines = [
        [row.what, row.words, f"{row.most:g} {row.unit}" + row.note if row.most else row.note.strip(), row.verdict]
        for row in rows
    ]
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    told = f"{len(os.sched_getaffinity(0))} cores of {processor}, Linux {platform.release().partition('-')[0]}"
    when = time.strftime("%Y-%m-%d", time.gmtime())
    header = ["what", "median (range, times)", "at most", "verdict"]
    return f"{table(header, lines)}\n\n{told}; load average at the rows {min(loads)} to {max(loads)}; {when}."


def update(page: Path, text: str) -> None:
    """Put the table between its marks.

    Raises:
        ValueError: the page has no such marks.
    """
    before, start, rest = page.read_text().partition(f"{START}\n")
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page.name} has no {START}")
    page.write_text(f"{before}{start}{text}\n{end}{after}")
