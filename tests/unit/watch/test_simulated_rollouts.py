"""A few simulated rollouts of each kind; `python -m tests.simulate_rollouts` measures many."""

from __future__ import annotations

from random import Random
from statistics import mean, pvariance

import pytest
from simulate_rollouts import BAD, GOOD, Case, Tally, binomial, rollout, tally

from intermodal.rooms.watch.evidence import Count, highest_rate, highest_ratio, share

CAUGHT = {
    "errors 0.2 -> 2 %": ("rollback", 700),
    "latency x1.5": ("rollback", 700),
    "one class x2": ("hold", 2500),
}


def some(case: Case, runs: int) -> Tally:
    return tally([rollout(case, seed) for seed in range(runs)])


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_good_candidates_stay(case: Case) -> None:
    found = some(case, 12)
    assert found.rolled_back + found.held == 0


@pytest.mark.parametrize("case", [case for case in BAD if case.name in CAUGHT], ids=lambda case: case.name)
def test_bad_candidates_are_caught(case: Case) -> None:
    kind, within = CAUGHT[case.name]
    found = some(case, 25)
    assert (found.rolled_back if kind == "rollback" else found.held) >= 24
    assert found.median_requests is not None and found.median_requests <= within


@pytest.mark.parametrize(("n", "p"), [(1000, 0.002), (1000, 0.05), (5000, 0.3), (400, 0.8)])
def test_the_draws_are_binomial(n: int, p: float) -> None:
    rng = Random(7)
    draws = [binomial(rng, n, p) for _ in range(4000)]
    variance = n * p * (1 - p)
    assert mean(draws) == pytest.approx(n * p, abs=5 * (variance / 4000) ** 0.5)
    assert pvariance(draws) == pytest.approx(variance, rel=0.15)
    assert min(draws) >= 0 and max(draws) <= n


def test_bounds_hold_however_often_one_looks() -> None:
    """At most one rollout in twenty may ever claim to exclude what is true; 200 of them, 30 looks each."""
    wrong_ratio = wrong_rate = close = 0
    for seed in range(200):
        rng, canary, both = Random(seed), 0, 0
        ratios, rates = [], []
        for _ in range(30):
            both += 20
            canary += binomial(rng, 20, share(0.1, 2.0))
            ratios.append(highest_ratio([Count(0.1, canary, both)]))
            rates.append(highest_rate(canary, both))
        wrong_ratio += any(ratio is not None and ratio <= 2.0 for ratio in ratios)
        wrong_rate += any(rate is not None and rate <= share(0.1, 2.0) for rate in rates)
        close += ratios[-1] is not None and ratios[-1] <= 3.0
    assert wrong_ratio <= 10 and wrong_rate <= 10
    assert close >= 150, "600 events tell 2 from 3"
