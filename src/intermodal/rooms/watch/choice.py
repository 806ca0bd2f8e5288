"""What will be compared, chosen from stable alone: how fast it is, which output and which of its classes.

Takes looks at stable, hands on a `Choice`. It must not depend on the canary: what is chosen by looking at it would be
found in it. Output and classes stay for the whole rollout; the edges of latency move with stable (`pace`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct

from intermodal.rooms.watch.counts import OTHER, chosen_classes, in_order
from intermodal.rooms.watch.looks import NOT_A_NUMBER, Look, Prediction
from intermodal.rooms.watch.pace import ENOUGH_REQUESTS, Pace

_BINS = 10


class Choice(Struct, frozen=True):
    """What is compared; empty parts are not."""

    pace: Pace | None = None  # the latest
    output: str = ""
    classes: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()  # of numbers; classes then name the bins


def choose(now: Choice, stable: Iterable[Look]) -> Choice:
    """Output and classes, where they can be chosen now; what was chosen stays.

    Args:
        now: what was chosen before.
        stable: all that its replicas have counted.
    """
    stable = list(stable)
    if now.output or sum(look.requests for look in stable) < ENOUGH_REQUESTS:
        return now
    for name in dict.fromkeys(name for look in stable for name in look.predictions):
        found = [look.predictions[name] for look in stable if name in look.predictions]
        classes: dict[str, int] = {}
        for one in found:
            for label, count in one.classes.items():
                classes[label] = classes.get(label, 0) + count
        if len(classes) > 1 or (classes and not any(one.numbers for one in found)):
            return Choice(now.pace, name, chosen_classes(classes))
        edges = _edges(found)
        if edges:
            return Choice(now.pace, name, _bin_names(edges), edges)
    return now


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
