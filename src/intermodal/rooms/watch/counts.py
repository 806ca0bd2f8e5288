"""Counts of requests of both revisions: what an observer hands in, and their sum.

Takes `Window`s, hands on `Evidence`, which is plain counters: it can be stored, added up again and checked by hand.

What does not count, does not: windows that straddle a change of weight or fall into the warm-up, and requests that
were golden cases, health checks or chosen by header, are left out by the observer (`Window.excluded` says why, so
that the numbers can be explained). Where requests were not assigned one by one at random (replica ratios), the two
revisions cannot be compared; the absolute limits still hold. Where users stick, a user counts once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import Enum
from math import isnan

from msgspec import Struct
from msgspec.structs import replace

OTHER = "(other)"
CIRCUIT_REQUESTS = 20
STEADIER = 1.05  # a canary's request is slow beyond this many times stable's edge


class Split(Enum):
    """How requests were divided between the revisions."""

    RANDOM = "random"  # each request by itself, with the weight
    USERS = "users"  # each user by herself; the counts are of users
    PAIRS = "pairs"  # mirrored: counts of events are of pairs in which only one of the two had it
    REPLICAS = "replicas"  # by how many of each there are: no comparison


class Arm(Struct, frozen=True):
    """Counts of one revision."""

    requests: int = 0
    errors: int = 0
    slow: int = 0  # beyond the edge that was chosen from what stable did before; see `pace_edges`
    over_limit: int = 0  # slower than the limit of the project
    classes: tuple[int, ...] = ()  # predictions in the order of `Rules.classes`
    usual: int = 0  # in the time that half of stable's took
    timed: int = 0  # requests that `slow` and `usual` are about: not those of the warm-up

    def plus(self, other: Arm) -> Arm:
        """Both together."""
        width = max(len(self.classes), len(other.classes))
        mine = self.classes + (0,) * (width - len(self.classes))
        more = other.classes + (0,) * (width - len(other.classes))
        return Arm(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            self.over_limit + other.over_limit,
            tuple(a + b for a, b in zip(mine, more, strict=True)),
            self.usual + other.usual,
            self.timed + other.timed,
        )


class Window(Struct, frozen=True):
    """What both revisions did in the same stretch of time."""

    weight_percent: float
    stable: Arm
    canary: Arm
    split: Split = Split.RANDOM
    excluded: str = ""  # why it does not count, or empty
    canary_healthy: bool = True  # at least one endpoint is


class Row(Struct, frozen=True):
    """Sums of the windows with the same weight and split."""

    weight_percent: float
    split: Split
    stable: Arm
    canary: Arm

    @property
    def weight(self) -> float | None:
        """The share of events that an equal canary has; None where the two cannot be compared."""
        return window_weight(self.weight_percent, self.split)


class Evidence(Struct, frozen=True):
    """Everything that was counted in a rollout."""

    rows: tuple[Row, ...] = ()
    step: int = 0
    step_canary: int = 0  # requests in this step
    step_stable: int = 0
    recent_canary: Arm = Arm()  # since the last full block of the circuit
    recent_stable: Arm = Arm()
    circuit_open: bool = False  # half of the last full block of the canary's requests failed, not so stable's
    canary_healthy: bool = True
    comparing: bool = False  # the last window that counts had both revisions, divided at random
    left_out: int = 0  # windows

    def add(self, window: Window) -> Evidence:
        """Return the evidence with one more window; the one before remains as it was."""
        if window.excluded:
            return replace(self, left_out=self.left_out + 1, canary_healthy=window.canary_healthy)
        canary, stable = self.recent_canary.plus(window.canary), self.recent_stable.plus(window.stable)
        full = canary.requests >= CIRCUIT_REQUESTS
        return replace(
            self,
            rows=_added(self.rows, window),
            step_canary=self.step_canary + window.canary.requests,
            step_stable=self.step_stable + window.stable.requests,
            recent_canary=Arm() if full else canary,
            recent_stable=Arm() if full else stable,
            circuit_open=self.circuit_open or (full and _half(canary) and not _half(stable)),
            canary_healthy=window.canary_healthy,
            comparing=window_weight(window.weight_percent, window.split) is not None,
        )

    def at_step(self, step: int) -> Evidence:
        """Return it for another step: what was counted stays evidence, the step's own requests begin at 0."""
        return self if step == self.step else replace(self, step=step, step_canary=0, step_stable=0)


def window_weight(weight_percent: float, split: Split) -> float | None:
    """Return the share of events that an equal canary has, or None where the two cannot be compared."""
    if split is Split.REPLICAS:
        return None
    if split is Split.PAIRS:
        return 0.5
    return weight_percent / 100 if 0 < weight_percent < 100 else None


def _half(arm: Arm) -> bool:
    return arm.requests > 0 and arm.errors * 2 >= arm.requests


def _added(rows: tuple[Row, ...], window: Window) -> tuple[Row, ...]:
    for index, row in enumerate(rows):
        if row.weight_percent == window.weight_percent and row.split is window.split:
            sums = replace(row, stable=row.stable.plus(window.stable), canary=row.canary.plus(window.canary))
            return (*rows[:index], sums, *rows[index + 1 :])
    return (*rows, Row(window.weight_percent, window.split, window.stable, window.canary))


def in_order(counts: Mapping[str, int], classes: Sequence[str]) -> tuple[int, ...]:
    """Return counts in the order of `classes`; what is not among them is added to `OTHER`, which must be last.

    Example:
        >>> in_order({"b": 2, "new": 1}, ("a", "b", "(other)"))
        (0, 2, 1)
    """
    known = tuple(counts.get(name, 0) for name in classes[:-1])
    return (*known, sum(counts.values()) - sum(known))


def chosen_classes(stable: Mapping[str, int], most: int = 30) -> tuple[str, ...]:
    """Return the classes to compare: stable's most frequent ones and `OTHER`."""
    ranked = sorted((name for name in stable if name != OTHER), key=lambda name: (-stable[name], name))
    return (*ranked[:most], OTHER)


def quantile_edges(stable: Sequence[float], bins: int = 10) -> tuple[float, ...]:
    """Return the edges that part stable's numeric predictions into equal shares; equal edges are one."""
    ordered = sorted(stable)
    if not ordered:
        return ()
    return tuple(sorted({ordered[index * len(ordered) // bins] for index in range(1, bins)}))


def binned(values: Sequence[float], edges: Sequence[float]) -> tuple[int, ...]:
    """Return how many values lie in each bin: numbers become classes. Not-a-number has a bin of its own, the last."""
    counts = [0] * (len(edges) + 2)
    for value in values:
        counts[len(edges) + 1 if isnan(value) else bisect_left(edges, value)] += 1
    return tuple(counts)


def pace_edges(histogram: Sequence[tuple[float, int]], quantile: float) -> tuple[float, float] | None:
    """Return the edges at a quantile of stable's latencies, for stable and for the canary; None without requests.

    The canary's is the first edge at least 5 % higher: so a model that is that much slower in all is not worse,
    however narrow its latencies lie.

    Args:
        histogram: (upper edge in seconds, requests at or below it), cumulative and rising, from stable alone and
            before what is judged by it.
        quantile: the edge nearest to this share of requests is taken.
    """
    total = histogram[-1][1] if histogram else 0
    if not total:
        return None
    stable_s = min(histogram, key=lambda edge: (abs(edge[1] / total - quantile), edge[0]))[0]
    canary_s = next((edge for edge, _ in histogram if edge >= stable_s * STEADIER), stable_s * STEADIER)
    return stable_s, canary_s
