"""The command: rollouts under constant load, as a person would make them.

    python -m tests.story --target local --runs 10     the story of seven revisions, so many times in a row
    python -m tests.story --churn 50                   deploys, promotions, rollbacks, crashes; then a dead gateway
    python -m tests.story --kills 20                   the watcher killed at random moments of rollouts
    python -m tests.story --faults                     daemon restarted, disk full, clock, registry away, and others

Exit status 1 when something did not hold; what it was is printed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]

from story.churn import churn, gateway_dies  # noqa: E402
from story.faults import FAULTS  # noqa: E402
from story.killed import kill_watchers  # noqa: E402
from story.tale import BAD, Told, tell  # noqa: E402
from story.world import world  # noqa: E402


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"  {time.strftime('%H:%M:%S')} {line}", flush=True)


def show(told: Told) -> None:
    """Print what came of a run."""
    tally = told.tally
    latencies = sorted(tally.latencies_s) or [0.0]
    by = ", ".join(f"r{one} {status}: {count}" for (one, status), count in sorted(tally.answers.items()))
    say(f"{told.seconds:.0f} s, {tally.requests} requests, {tally.lost(bad=(BAD,))} lost; {by}")
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    say(f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, slowest {latencies[-1] * 1e3:.0f} ms")
    for fault in told.faults:
        say(f"FAULT {fault}")


def stories(target: str, runs: int, rate_per_s: float) -> int:
    """How many runs were not as told."""
    failed = 0
    for number in range(runs):
        print(f"run {number + 1} of {runs} on {target}", flush=True)
        with world(target) as here:
            told = tell(here, rate_per_s=rate_per_s, say=say)
        show(told)
        failed += bool(told.faults)
    print(f"{runs - failed} of {runs} runs as told")
    return failed


def churning(count: int, seed: int) -> int:
    """How many things did not hold."""
    with world("local") as here:
        found = churn(here, count, seed=seed, say=say)
        death = gateway_dies(here)
    tally = found.tally
    print(f"{found.deploys} deploys, {found.rollbacks} rollbacks, {found.crashes} crashes in {found.seconds:.0f} s")
    print(f"{tally.requests} requests, {tally.lost()} lost")
    print(f"gateway killed: {death.refused} of {death.refused + death.answered} requests lost in {death.seconds:.2f} s")
    for fault in [*found.faults, *(death.told if not death.answered else ())]:
        print(f"FAULT {fault}")
    return len(found.faults)


def killing(count: int, seed: int) -> int:
    """How many things did not hold."""
    with world("local") as here:
        faults = kill_watchers(here, count, seed=seed, say=say)
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"{count} kills, {len(faults)} faults")
    return len(faults)


def faulty(names: Sequence[str]) -> int:
    """How many faults ended inconsistently, or without a clear word."""
    failed = 0
    for name, meet in FAULTS.items():
        if names and name not in names:
            continue
        with world("local") as here:
            try:
                said = meet(here)
            except Exception as error:  # the next one is tried all the same
                failed += 1
                said = f"FAULT {type(error).__name__}: {error}"
        say(f"{name}: {said}")
    return failed


def main(arguments: Sequence[str]) -> int:
    """The exit status of `python -m tests.story ARGUMENTS`."""
    parser = argparse.ArgumentParser(prog="python -m tests.story", description=__doc__)
    parser.add_argument("--target", choices=["local", "sandbox"], default="local")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--churn", type=int, default=0, metavar="N")
    parser.add_argument("--kills", type=int, default=0, metavar="N")
    parser.add_argument("--faults", nargs="*", choices=list(FAULTS), default=None)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    if options.churn:
        return int(churning(options.churn, options.seed) > 0)
    if options.kills:
        return int(killing(options.kills, options.seed) > 0)
    if options.faults is not None:
        return int(faulty(options.faults) > 0)
    return int(stories(options.target, options.runs, options.rate) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
