"""Counts and times of inference requests, as Triton's statistics extension wants them.

Takes how every request ended (it is an observer of the application), hands on the document. Times are whole
nanoseconds since this front started.

Rules, in order: only requests that asked the model count, whatever their dialect; a success adds its rows, its whole
time, and its wait and computation; every answer but 200 is a failure; a request stands for its share of the batch it
went with, so that batches are counted although only requests are seen.

Spec: Triton, "Statistics Extension".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from intermodal_server.front.exchange import Exchange

NS = 1e9
MAX_SIZES = 4096  # batch sizes that are counted one by one
_SUMS = ("_success", "_fail", "_rows", "_success_s", "_fail_s", "_queue_s", "_compute_s", "_batches")
_clock = time.monotonic


def _duration(count: int, total_s: float = 0.0) -> dict[str, int]:
    return {"count": count, "ns": round(total_s * NS)}


class Statistics:
    """What has been answered; one for the life of the front. Plain numbers, because `observe` is on every request."""

    def __init__(self) -> None:
        self._success = self._fail = self._rows = 0
        self._success_s = self._fail_s = self._queue_s = self._compute_s = self._batches = self._last_s = 0.0
        self._sizes: dict[int, list[float]] = {}  # rows of a batch -> batches, seconds

    def observe(self, exchange: Exchange, status: int) -> None:
        """Count a request that has ended."""
        if exchange.protocol == "http":  # nobody was asked
            return
        now_s = _clock()
        if status != 200:
            self._fail += 1
            self._fail_s += now_s - exchange.started_s
            return
        rows = exchange.rows or 1
        batch_rows = exchange.batch_rows
        if batch_rows < rows:
            batch_rows = rows
        share = rows / batch_rows
        compute_s = exchange.compute_s
        self._success += 1
        self._success_s += now_s - exchange.started_s
        self._queue_s += exchange.queue_s
        self._compute_s += compute_s
        self._rows += rows
        self._batches += share
        self._last_s = now_s
        try:
            size = self._sizes[batch_rows]
        except KeyError:
            size = self._sizes.setdefault(batch_rows if len(self._sizes) < MAX_SIZES else 0, [0.0, 0.0])
        size[0] += share
        size[1] += compute_s * share

    def take(self) -> dict[str, Any]:
        """What was counted since this was last asked, for `add` of another process."""
        found = {name: getattr(self, name) for name in _SUMS}
        sizes, last_s = self._sizes, self._last_s
        Statistics.__init__(self)
        return {**found, "last_s": last_s, "sizes": [[rows, *counted] for rows, counted in sizes.items()]}

    def add(self, taken: Mapping[str, Any]) -> None:
        """Add what another process of this machine has counted."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + taken[name])
        self._last_s = max(self._last_s, taken["last_s"])
        for rows, count, seconds in taken["sizes"]:
            size = self._sizes.get(rows)
            if size is None:
                size = self._sizes.setdefault(rows if len(self._sizes) < MAX_SIZES else 0, [0.0, 0.0])
            size[0] += count
            size[1] += seconds

    def as_json(self, name: str, version: str) -> dict[str, Any]:
        """The document of one model."""
        none = _duration(0)
        last_ms = (time.time() - (_clock() - self._last_s)) * 1000 if self._success else 0
        batches = [
            {
                "batch_size": rows,
                "compute_input": _duration(round(count)),
                "compute_infer": _duration(round(count), seconds),
                "compute_output": _duration(round(count)),
            }
            for rows, (count, seconds) in sorted(self._sizes.items())
        ]
        stats = {
            "name": name,
            "version": version,
            "last_inference": round(last_ms),
            "inference_count": self._rows,
            "execution_count": round(self._batches),
            "inference_stats": {
                "success": _duration(self._success, self._success_s),
                "fail": _duration(self._fail, self._fail_s),
                "queue": _duration(self._success, self._queue_s),
                "compute_input": none,
                "compute_infer": _duration(self._success, self._compute_s),
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": batches,
        }
        return {"model_stats": [stats]}
