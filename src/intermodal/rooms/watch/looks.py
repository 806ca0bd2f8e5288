"""What servers say of their predictions, as counts that only rise: `/sketches` of all replicas of a revision.

Takes `ReplicaReport`s, hands on `Look`s: latencies and predicted classes by traffic. What does not have the form is
left out, because a server must not end a rollout by what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from msgspec import Struct

from intermodal.rooms.deploy.target import ReplicaReport

NOT_A_NUMBER = "(not a number)"


class Prediction(Struct, frozen=True):
    """Counts of one output: of classes, or of numbers by buckets (lower edge, upper edge, count)."""

    rows: int
    classes: Mapping[str, int]
    numbers: tuple[tuple[float, float, int], ...] = ()
    nan: int = 0


class Look(Struct, frozen=True):
    """What one replica's process has counted of one kind of traffic since it began."""

    requests: int
    rows: int
    latency: tuple[tuple[float, int], ...]  # (upper edge in s, requests at or below it), cumulative
    predictions: Mapping[str, Prediction]  # by output, in the model's order


def looks(reports: Iterable[ReplicaReport], traffic: str) -> dict[str, Look]:
    """What was counted of one kind of traffic ("live", "mirror"), by replica process."""
    found = {}
    for report in reports:
        try:
            found[report.replica] = _look(report.sketches, traffic)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
    return found


def _look(document: Mapping[str, Any], traffic: str) -> Look:
    counted = document["requests"].get(traffic)
    predictions = {}
    for output in document["outputs"]:
        sketch = output["traffic"].get(traffic)
        if sketch is not None:
            numbers = sketch.get("numbers") or {}
            predictions[str(output["name"])] = Prediction(
                int(sketch["rows"]),
                {**{str(name): int(count) for name, count in sketch["classes"].items()}, **_other(sketch)},
                tuple((float(low), float(high), int(count)) for low, high, count in numbers.get("buckets", ())),
                int(numbers.get("nan", 0)),
            )
    if counted is None:
        return Look(0, 0, (), predictions)
    return Look(
        sum(int(count) for count in counted["codes"].values()),
        int(counted["rows"]),
        _cumulative(document["duration_edges_s"], counted["duration_s"]["counts"]),
        predictions,
    )


def _other(sketch: Mapping[str, Any]) -> dict[str, int]:
    return {"(other)": int(sketch["other"])} if sketch.get("other") else {}


def _cumulative(edges: list[float], counts: list[int]) -> tuple[tuple[float, int], ...]:
    found, total = [], 0
    for edge, count in zip([*edges, inf], counts, strict=True):
        total += int(count)
        found.append((float(edge), total))
    return tuple(found)


def merged_latency(all_looks: Iterable[Look]) -> tuple[tuple[float, int], ...]:
    """One cumulative histogram of all replicas; they have the same edges."""
    sums: dict[float, int] = {}
    for look in all_looks:
        for edge, count in look.latency:
            sums[edge] = sums.get(edge, 0) + count
    return tuple(sorted(sums.items()))


def timed(latency: tuple[tuple[float, int], ...]) -> int:
    """How many requests it is of."""
    return latency[-1][1] if latency else 0


def beyond(latency: tuple[tuple[float, int], ...], edge_s: float) -> int:
    """How many requests took longer than the first edge at or above `edge_s`."""
    total = timed(latency)
    return total - next((count for edge, count in latency if edge >= edge_s), total)
