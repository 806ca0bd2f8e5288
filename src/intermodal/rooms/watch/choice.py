"""What will be compared, chosen from stable alone: where slow begins, which output and which of its classes.

Takes looks at stable, hands on a `Choice` that holds for the whole rollout. It must not depend on the canary: what is
chosen by looking at it would be found in it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise
from math import isfinite

from msgspec import Struct

from intermodal.rooms.watch.counts import OTHER, chosen_classes, in_order, slow_edges
from intermodal.rooms.watch.looks import NOT_A_NUMBER, Look, Prediction, merged_latency

ENOUGH_REQUESTS = 200  # of stable, below which an edge would be chance
_BINS = 10


class Choice(Struct, frozen=True):
    """What is compared; empty parts are not."""

    slow: tuple[float, float] | None = None  # edges in seconds: stable's and the canary's
    output: str = ""
    classes: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()  # of numbers; classes then name the bins

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be chosen."""
        return self.slow is not None and bool(self.output)


def choose(
    now: Choice, stable: Iterable[Look], lately: Iterable[tuple[float, int]] | None = None, *, enough: bool = True
) -> Choice:
    """What can be chosen now; what was chosen stays.

    Args:
        now: what was chosen before.
        stable: all that its replicas have counted.
        lately: its cumulative latencies since the rollout began, which say where slow begins: what was slow a week ago
            would hide what is slow now. Default: all it has counted.
        enough: whether to choose with what there is.
    """
    stable = list(stable)
    if now.complete or not enough or sum(look.requests for look in stable) < ENOUGH_REQUESTS:
        return now
    slow = now.slow
    if slow is None:
        latency = [(edge, count) for edge, count in lately or merged_latency(stable) if isfinite(edge)]
        slow = slow_edges(latency)
    if now.output:
        return Choice(slow, now.output, now.classes, now.edges)
    for name in dict.fromkeys(name for look in stable for name in look.predictions):
        found = [look.predictions[name] for look in stable if name in look.predictions]
        classes: dict[str, int] = {}
        for one in found:
            for label, count in one.classes.items():
                classes[label] = classes.get(label, 0) + count
        if len(classes) > 1 or (classes and not any(one.numbers for one in found)):
            return Choice(slow, name, chosen_classes(classes))
        edges = _edges(found)
        if edges:
            return Choice(slow, name, _bin_names(edges), edges)
    return Choice(slow)


def counted(choice: Choice, prediction: Prediction | None) -> tuple[int, ...]:
    """Predictions in the order of the choice's classes."""
    if prediction is None:
        return (0,) * len(choice.classes)
    if not choice.edges:
        return in_order(prediction.classes, choice.classes)
    counts = [0] * len(choice.classes)
    for low, high, count in prediction.numbers:
        counts[bisect_left(choice.edges, (low + high) / 2)] += count
    counts[-1] += prediction.nan
    return tuple(counts)


def _edges(found: list[Prediction]) -> tuple[float, ...]:
    """Edges that part the numbers into about equal shares, on edges of buckets."""
    buckets: dict[float, int] = {}
    for one in found:
        for _, high, count in one.numbers:
            buckets[high] = buckets.get(high, 0) + count
    total, below, edges = sum(buckets.values()), 0, []
    for high, count in sorted(buckets.items()):
        before, below = below, below + count
        if before * _BINS // max(1, total) != below * _BINS // max(1, total) and below < total:
            edges.append(high)
    return tuple(edges)


def _bin_names(edges: tuple[float, ...]) -> tuple[str, ...]:
    names = [f"up to {edges[0]:.4g}"]
    names += [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return (*names, f"over {edges[-1]:.4g}", NOT_A_NUMBER)


__all__ = ["OTHER", "Choice", "choose", "counted"]
