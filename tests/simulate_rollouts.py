"""How often the judge sends back a good canary, and how soon it catches a bad one: `python -m tests.simulate_rollouts`.

Requests are drawn by the thousand from binomial distributions, so that a million cost little; the judge is the real
one. One rollout: weight 10 %, a look every 100 requests of the canary, 5,000 in all (50 looks); the case over a
million requests looks 200 times. The table goes into docs/architecture/judge.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from math import erfc, floor, lgamma, log, sqrt
from random import Random
from statistics import NormalDist, median
from typing import NamedTuple

from intermodal.rooms.deploy.verdict import Outcome
from intermodal.rooms.watch.counts import STEADIER, Arm, Evidence, Window
from intermodal.rooms.watch.judge import Rules, outcome_of

CLASSES = tuple(f"c{index}" for index in range(10))
RULES = Rules(classes=CLASSES)
WEIGHT = 0.1
SLOW_Z = NormalDist().inv_cdf(0.95)  # the edge is stable's 95th percentile


class Case(NamedTuple):
    """A kind of rollout."""

    name: str
    errors: float = 0.002
    canary_errors: float | None = None  # None: as stable
    latency: float = 1.0  # times stable's
    sigma: float = 0.4  # of the logarithm of latencies
    class_factor: float = 1.0  # of class 0
    jitter: float = 0.0  # each class share of the canary is up to this much off
    busy: bool = False  # 8 % of the looks: six times the errors and 1.6 times the latency, for both
    swing: bool = False  # in every second spell of 10 looks class 0 takes half of all requests, of both
    look_requests: int = 1000
    looks: int = 50


GOOD = (
    Case("identical"),
    Case("busy spells on both", busy=True),
    Case("base errors 1 %", errors=0.01),
    Case("class shares ±20 %", jitter=0.2),
    Case("latency +5 % over a million requests", latency=1.05, look_requests=5000, looks=200),
    Case("the same, narrow latencies (sigma 0.1)", latency=1.05, sigma=0.1, look_requests=5000, looks=200),
    Case("at the margin: errors 1 -> 1.49 %", errors=0.01, canary_errors=0.0149),
    Case("class mix swings on both", swing=True),
)
BAD = (
    Case("errors 0.2 -> 0.6 %", canary_errors=0.006),
    Case("errors 0.2 -> 1 %", canary_errors=0.01),
    Case("errors 0.2 -> 2 %", canary_errors=0.02),
    Case("errors 0.2 -> 20 %", canary_errors=0.2),
    Case("latency x1.1", latency=1.1),
    Case("latency x1.2", latency=1.2),
    Case("latency x1.3", latency=1.3),
    Case("latency x1.5", latency=1.5),
    Case("latency x1.5, wide (sigma 0.8)", latency=1.5, sigma=0.8),
    Case("latency x2", latency=2.0),
    Case("one class x1.5", class_factor=1.5),
    Case("one class x1.75", class_factor=1.75),
    Case("one class x2", class_factor=2.0),
    Case("one class x3", class_factor=3.0),
    Case("one class gone", class_factor=0.02),
)


class Ending(NamedTuple):
    """What became of one rollout."""

    kind: str  # "rollback", "hold", "none"
    canary_requests: int


def binomial(rng: Random, n: int, p: float) -> int:
    """One draw, exact: waiting times for few expected events, else Hörmann's BTRS, as CPython 3.12 does."""
    if p <= 0 or n == 0:
        return 0
    if p > 0.5:
        return n - binomial(rng, n, 1 - p)
    if n * p < 10:
        found = at = 0
        scale = log(1 - p)
        while True:
            at += floor(log(1 - rng.random()) / scale) + 1
            if at > n:
                return found
            found += 1
    spread = sqrt(n * p * (1 - p))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * p
    c = n * p + 0.5
    squeeze = 0.92 - 4.2 / b
    alpha = (2.83 + 5.1 / b) * spread
    odds = log(p / (1 - p))
    mode = floor((n + 1) * p)
    height = lgamma(mode + 1) + lgamma(n - mode + 1)
    while True:
        u = rng.random() - 0.5
        us = 0.5 - abs(u)
        k = floor((2 * a / us + b) * u + c) if us else -1
        if not 0 <= k <= n:
            continue
        v = 1 - rng.random()
        if us >= 0.07 and v <= squeeze:
            return k
        v *= alpha / (a / (us * us) + b)
        if log(v) <= height - lgamma(k + 1) - lgamma(n - k + 1) + (k - mode) * odds:
            return k


def multinomial(rng: Random, n: int, shares: Sequence[float]) -> tuple[int, ...]:
    """One draw of counts that add up to `n`."""
    counts, left, rest = [], n, 1.0
    for share in shares[:-1]:
        count = binomial(rng, left, min(1.0, share / rest)) if rest > 0 else 0
        counts.append(count)
        left -= count
        rest -= share
    return (*counts, left)


def usual_share(latency: float, edge: float, sigma: float) -> float:
    """Which share of lognormal latencies lies within `edge` times stable's median."""
    return erfc(-log(edge / latency) / sigma / sqrt(2)) / 2


def slow_share(latency: float, edge: float, sigma: float) -> float:
    """Which share of lognormal latencies lies beyond `edge` times stable's 95th percentile."""
    z = SLOW_Z + log(edge / latency) / sigma
    return erfc(z / sqrt(2)) / 2


def canary_shares(case: Case, rng: Random) -> list[float]:
    """Shares of the classes for one rollout's canary; stable's are equal."""
    shares = [rng.uniform(1 - case.jitter, 1 + case.jitter) for _ in CLASSES]
    rest = (len(CLASSES) - case.class_factor) / (len(CLASSES) - 1)
    shares = [share * (case.class_factor if index == 0 else rest) for index, share in enumerate(shares)]
    return [share / sum(shares) for share in shares]


def swing(shares: Sequence[float]) -> list[float]:
    """The shares when the users ask for class 0 half of the time."""
    return [0.5 + shares[0] / 2, *(share / 2 for share in shares[1:])]


def rollout(case: Case, seed: int, rules: Rules = RULES) -> Ending:
    """Run one rollout to its first alarm, or to its end."""
    rng = Random(f"{case.name}-{seed}")
    shares, equal = canary_shares(case, rng), [1 / len(CLASSES)] * len(CLASSES)
    evidence, seen = Evidence(), 0
    base_canary = case.errors if case.canary_errors is None else case.canary_errors
    for look in range(case.looks):
        swung = case.swing and look // 10 % 2 == 1
        busy = case.busy and rng.random() < 0.08
        errors, latency = (6.0, 1.6) if busy else (1.0, 1.0)
        canary = binomial(rng, case.look_requests, WEIGHT)
        stable = case.look_requests - canary
        window = Window(
            WEIGHT * 100,
            Arm(
                stable,
                binomial(rng, stable, case.errors * errors),
                binomial(rng, stable, slow_share(latency, 1.0, case.sigma)),
                0,
                multinomial(rng, stable, swing(equal) if swung else equal),
                binomial(rng, stable, usual_share(latency, 1.0, case.sigma)),
                stable,
            ),
            Arm(
                canary,
                binomial(rng, canary, base_canary * errors),
                binomial(rng, canary, slow_share(latency * case.latency, STEADIER, case.sigma)),
                0,
                multinomial(rng, canary, swing(shares) if swung else shares),
                binomial(rng, canary, usual_share(latency * case.latency, STEADIER, case.sigma)),
                canary,
            ),
        )
        evidence, seen = evidence.add(window), seen + canary
        outcome, hold = outcome_of(evidence, rules, min_requests=500)
        if outcome is Outcome.FAIL or hold:
            return Ending("rollback" if outcome is Outcome.FAIL else "hold", seen)
    return Ending("none", seen)


class Tally(NamedTuple):
    """What became of many rollouts."""

    runs: int
    rolled_back: int
    held: int
    median_requests: int | None  # of the canary, over all runs, where more than half raised an alarm
    p90_requests: int | None

    def row(self, name: str) -> str:
        """A line of the table."""
        back, held = 100 * self.rolled_back / self.runs, 100 * self.held / self.runs
        cells = [f"{back:.2f} %", f"{held:.2f} %", self.median_requests or "–", self.p90_requests or "–"]
        return f"| {name} | " + " | ".join(str(cell) for cell in cells) + " |"


def tally(endings: Sequence[Ending]) -> Tally:
    """Sum up."""
    times = sorted(e.canary_requests if e.kind != "none" else 10**9 for e in endings)
    middle, late = int(median(times)), times[int(0.9 * (len(times) - 1))]
    return Tally(
        len(endings),
        sum(e.kind == "rollback" for e in endings),
        sum(e.kind == "hold" for e in endings),
        middle if middle < 10**9 else None,
        late if late < 10**9 else None,
    )


def _run(task: tuple[Case, int]) -> Ending:
    return rollout(*task)


def campaign(cases: Sequence[Case], runs: int, show: Callable[[str], object] = print) -> dict[str, Tally]:
    """Run every case `runs` times on all processors, and show a table."""
    show("| case | rolled back | held | median canary requests | 90 % within |")
    show("|---|---|---|---|---|")
    tallies: dict[str, Tally] = {}
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for case in cases:
            endings = pool.map(_run, [(case, seed) for seed in range(runs)], chunksize=max(1, runs // 20))
            tallies[case.name] = tally(endings)
            show(tallies[case.name].row(case.name))
    return tallies


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a good canary is sent back more often than 1 % (or once, in fewer than 100 runs)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="rollouts of each case")
    options = parser.parse_args(arguments)
    tallies = campaign([*GOOD, *BAD], options.runs, lambda line: print(line, flush=True))
    wrong = [case.name for case in GOOD if tallies[case.name].rolled_back > max(1, options.runs // 100)]
    print(f"wrongly rolled back more often than 1 %: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
