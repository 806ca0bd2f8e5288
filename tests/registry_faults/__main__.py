"""The command: so many pushes and pulls against a registry that fails on purpose.

    python -m tests.registry_faults --runs 300 --seed 1 --faults 0.05 --jobs 2
    python -m tests.registry_faults --seed 1 --only 17,203        # repeat runs

Exit status 1 when something happened that never must, when fewer than 95 % completed by themselves, or when more than
1.2 times the bytes were moved.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from .campaign import Outcome, Run  # noqa: E402

BY_THEMSELVES = 0.95
BYTES = 1.2


def campaign(folder: Path, seed: int, numbers: Sequence[int], rate: float, jobs: int, *, tell: bool) -> list[Outcome]:
    """The outcomes of all runs, in order."""

    def one(number: int) -> Outcome:
        outcome = Run(folder, seed, number, rate).go()
        if tell:
            state = "FAILED" if outcome.problems else "ok" if outcome.calls == 1 else f"ok after {outcome.calls} calls"
            print(f"run {number}: {state}: {outcome.words}; {outcome.faults} of {outcome.requests} requests went wrong")
            for line in (*outcome.problems, *outcome.error.splitlines()):
                print(f"    {line}", flush=True)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, numbers))


def summary(outcomes: Sequence[Outcome]) -> tuple[str, bool]:
    """One line, and whether it is good enough."""
    alone = sum(outcome.calls == 1 for outcome in outcomes)
    useful, moved = sum(o.useful for o in outcomes), sum(o.moved for o in outcomes)
    failed = sum(bool(o.problems) for o in outcomes)
    words = (
        f"{len(outcomes)} runs, {sum(o.requests for o in outcomes)} requests, "
        f"{sum(o.faults for o in outcomes)} faults: "
        f"{alone} completed by themselves ({alone / len(outcomes):.1%}), "
        f"{sum(o.calls == 2 for o in outcomes)} on the next call, {failed} FAILED; "
        f"{moved / useful:.3f} times the bytes"
    )
    return words, not failed and alone >= BY_THEMSELVES * len(outcomes) and moved <= BYTES * useful


def main(arguments: Sequence[str]) -> int:
    """The exit status of `python -m tests.registry_faults ARGUMENTS`."""
    parser = argparse.ArgumentParser(prog="python -m tests.registry_faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=float, default=0.05, help="share of requests that go wrong")
    parser.add_argument("--only", default="", help="numbers of runs to repeat, with commas between")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    numbers = [int(n) for n in options.only.split(",") if n] or list(range(1, options.runs + 1))
    clock = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="registry-faults-") as name:
        outcomes = campaign(Path(name), options.seed, numbers, options.faults, options.jobs, tell=True)
    words, good = summary(outcomes)
    print(f"{words}; {time.monotonic() - clock:.0f} s, seed {options.seed}, {options.faults:.0%} faults")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
