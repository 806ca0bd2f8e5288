"""E-values of plain counts: how much speaks against "the canary is not worse", valid however often one looks.

Takes counts of events and the share of them that the canary may have at most, hands on e-values and bounds.

Why it holds: requests are assigned at random, the canary's with probability `w`. If its odds of an event (an error, a
slow request, a predicted class) are at most `d` times stable's, an event comes from the canary with probability at
most `d*w/(d*w+1-w)`, whatever the base rate is and however it drifts. The product of likelihood ratios against that
share has an expectation of at most 1 at every moment, and so has the mean over a grid of alternatives; it reaches `x`
with probability `1/x` at most, over the whole rollout. Spells that hit both revisions cancel out.

Spec: Ville's inequality; Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import exp, log
from typing import NamedTuple

WORSE = (1.25, 1.6, 2.0, 3.0, 4.5, 7.0, 12.0, 30.0)  # odds beyond the margin, for errors and slow requests
MORE = (1.2, 1.35, 1.6, 2.0, 3.0, 6.0)  # for classes
SLOWER = (1 / 1.2, 1 / 1.6, 1 / 2.5, 1 / 5, 1 / 20)  # for requests that come in the usual time
FEWER = tuple(1 / ratio for ratio in MORE)
_BETTER = (0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.03)  # alternatives of the bounds
_RATIO_LADDER = (1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
_RATE_LADDER = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.5, 0.7, 0.9,
)  # fmt: skip
BOUND_AT = 20.0  # a bound fails in at most one rollout of this many
_HUGE = 700.0  # exp of more overflows


class Count(NamedTuple):
    """Events at one weight."""

    weight: float  # the canary's share of requests, strictly between 0 and 1
    canary: int
    both: int


def share(weight: float, odds: float) -> float:
    """Return the canary's share of events when its odds of one are `odds` times stable's.

    Example:
        >>> round(share(0.1, 1.5), 4)
        0.1429
    """
    return odds * weight / (odds * weight + 1 - weight)


def e_value(counts: Sequence[Count], margin: float, grid: tuple[float, ...]) -> float:
    """Return the evidence that the canary's odds lie beyond `margin`, towards `margin * grid`.

    Args:
        counts: events at each weight, from the first request on; order does not matter.
        margin: odds ratio that is still fine; with ratios of `grid` below 1 the lowest one, above 1 the highest.
        grid: alternatives, as multiples of the margin, all on one side of 1.
    """
    logs = [0.0] * len(grid)
    for weight, canary, both in counts:
        stable = both - canary
        for index, (hit, miss) in enumerate(_factors(weight, margin, grid)):
            logs[index] += canary * hit + stable * miss
    return _mean(logs)


def stepwise_e_value(counts: Sequence[Count], margin: float, grid: tuple[float, ...]) -> float:
    """Return the evidence as `e_value`, of a canary that may have become worse with any of its steps.

    A canary whose few requests met idle replicas looks better than stable, and that must not speak for it once it
    carries as much. So half of the evidence began with the first step, a quarter with the second, and so on; what has
    not begun is 1. A mixture with fixed shares of e-values is one.

    Args:
        counts: events at each weight, in the order of the steps.
        margin: as for `e_value`.
        grid: as for `e_value`.
    """
    parts = [e_value(counts[first:], margin, grid) * 0.5 ** (first + 1) for first in range(len(counts))]
    return sum(parts) + 0.5 ** len(counts)


@lru_cache(maxsize=4096)
def _factors(weight: float, margin: float, grid: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """What one event of the canary, and one of stable, adds to the logarithm for each alternative."""
    null = share(weight, margin)
    others = [share(weight, margin * beyond) for beyond in grid]
    return tuple((log(other / null), log((1 - other) / (1 - null))) for other in others)


def rate_e_value(events: int, requests: int, limit: float, grid: tuple[float, ...] = WORSE) -> float:
    """Return the evidence that a share of requests is above `limit`, which needs no stable revision."""
    return e_value([Count(limit, events, requests)], 1.0, grid)  # a share of requests instead of a share of events


def excludes_ratio(counts: Sequence[Count], ratio: float) -> bool:
    """Return whether the canary's odds are below (for a ratio under 1: above) `ratio` times stable's."""
    grid = _BETTER if ratio >= 1 else tuple(1 / better for better in _BETTER)
    return e_value(counts, ratio, grid) >= BOUND_AT


def excludes_rate(events: int, requests: int, rate: float) -> bool:
    """Return whether the canary's share of requests is below `rate`."""
    return rate_e_value(events, requests, rate, _BETTER) >= BOUND_AT


def highest_ratio(counts: Sequence[Count]) -> float | None:
    """Return the odds ratio above which the canary's is excluded, or None while nothing is excluded."""
    found = None
    for ratio in reversed(_RATIO_LADDER):
        if not excludes_ratio(counts, ratio):
            break
        found = ratio
    return found


def lowest_ratio(counts: Sequence[Count]) -> float | None:
    """Return the odds ratio, at most 1, below which the canary's is excluded, or None while nothing is excluded."""
    found = None
    for ratio in reversed(_RATIO_LADDER[1:]):
        if not excludes_ratio(counts, 1 / ratio):
            break
        found = 1 / ratio
    return found


def highest_rate(events: int, requests: int) -> float | None:
    """Return the share of requests above which the canary's is excluded, or None while nothing is excluded."""
    found = None
    for rate in reversed(_RATE_LADDER):
        if not excludes_rate(events, requests, rate):
            break
        found = rate
    return found


def _mean(logs: Sequence[float]) -> float:
    return sum(exp(min(value, _HUGE)) for value in logs) / len(logs)
