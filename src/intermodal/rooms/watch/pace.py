"""How fast stable is now: where slow begins, and what the usual time is.

Takes looks at stable, one moment after the other; hands on edges of latencies.

Rules, in order:
1. Edges come from stable alone, and from what it did before the requests that are judged by them: then a canary that
   is not slower has its weight's share of the slow ones, wherever the edges lie and however they move.
2. They move with stable, from its last `ENOUGH_REQUESTS` or somewhat more: a machine that is busy while a container
   starts, or was overloaded yesterday, must not hide what is slow when it has calmed down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from math import isfinite

from msgspec import Struct

from intermodal.rooms.watch.counts import pace_edges
from intermodal.rooms.watch.looks import Look, merged_latency

ENOUGH_REQUESTS = 200  # of stable, below which an edge would be chance
SLOW_QUANTILE, USUAL_QUANTILE = 0.95, 0.5
_APART = 20  # requests between two looks that are kept
_KEPT = 100


class Pace(Struct, frozen=True):
    """Edges in seconds, of stable and of the canary."""

    slow: tuple[float, float]  # what takes longer is slow
    usual: tuple[float, float]  # what takes no longer came in the usual time


class Recent:
    """Stable's last looks; one for each run of a watcher."""

    def __init__(self) -> None:
        self._kept: deque[Mapping[str, Look]] = deque(maxlen=_KEPT)

    def pace(self, now: Mapping[str, Look]) -> Pace | None:
        """The edges of what was asked lately, this look included; None while that is not enough."""
        found = None
        for index in range(len(self._kept) - 1, -1, -1):
            lately = _since(self._kept[index], now)
            if _total(lately) >= ENOUGH_REQUESTS:
                for _ in range(index):
                    self._kept.popleft()  # a later one will do
                found = pace_of(lately)
                break
        if now and not (self._kept and _known(self._kept[-1], now)):
            self._kept.append(now)
        return found


def pace_of(latency: Iterable[tuple[float, int]]) -> Pace | None:
    """The edges of a cumulative histogram; None without requests."""
    finite = [(edge, count) for edge, count in latency if isfinite(edge)]
    slow, usual = pace_edges(finite, SLOW_QUANTILE), pace_edges(finite, USUAL_QUANTILE)
    return Pace(slow, usual) if slow is not None and usual is not None else None


def _since(then: Mapping[str, Look], now: Mapping[str, Look]) -> list[tuple[float, int]]:
    """Latencies between two looks, cumulative, of the processes that are in both."""
    found = dict(merged_latency(look for name, look in now.items() if name in then))
    for edge, count in merged_latency(look for name, look in then.items() if name in now):
        found[edge] = found.get(edge, 0) - count
    return sorted(found.items())


def _total(latency: list[tuple[float, int]]) -> int:
    return latency[-1][1] if latency else 0


def _known(then: Mapping[str, Look], now: Mapping[str, Look]) -> bool:
    """Whether next to nothing happened since: so few requests, of the same processes."""
    return bool(then.keys() & now.keys()) and 0 <= _total(_since(then, now)) < _APART
