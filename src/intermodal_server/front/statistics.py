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
from dataclasses import dataclass
from typing import Any

from intermodal_server.front.exchange import Exchange

NS = 1e9
MAX_SIZES = 4096  # batch sizes that are counted one by one


@dataclass
class Duration:
    """How often, and how long together."""

    count: int = 0
    total_s: float = 0.0

    def add(self, duration_s: float) -> None:
        """One more."""
        self.count += 1
        self.total_s += duration_s

    def as_json(self) -> dict[str, int]:
        """Triton's form."""
        return {"count": self.count, "ns": round(self.total_s * NS)}


class Statistics:
    """What has been answered; one for the life of the front."""

    def __init__(self) -> None:
        self._success = Duration()
        self._fail = Duration()
        self._queue = Duration()
        self._compute = Duration()
        self._rows = 0
        self._batches = 0.0
        self._sizes: dict[int, list[float]] = {}  # rows of a batch -> batches, seconds
        self._last_ms = 0

    def observe(self, exchange: Exchange, status: int) -> None:
        """Count a request that has ended."""
        if exchange.protocol == "http":  # nobody was asked
            return
        now_s = time.monotonic()
        if status != 200:
            self._fail.add(now_s - exchange.started_s)
            return
        rows = exchange.rows or 1
        batch_rows = max(exchange.batch_rows, rows)
        share = rows / batch_rows
        self._success.add(now_s - exchange.started_s)
        self._queue.add(exchange.queue_s)
        self._compute.add(exchange.compute_s)
        self._rows += rows
        self._batches += share
        self._last_ms = int(time.time() * 1000)
        size = self._sizes.get(batch_rows)
        if size is None:
            size = self._sizes.setdefault(batch_rows if len(self._sizes) < MAX_SIZES else 0, [0.0, 0.0])
        size[0] += share
        size[1] += exchange.compute_s * share

    def as_json(self, name: str, version: str) -> dict[str, Any]:
        """The document of one model."""
        none = Duration().as_json()
        batches = [
            {
                "batch_size": rows,
                "compute_input": {"count": round(count), "ns": 0},
                "compute_infer": {"count": round(count), "ns": round(seconds * NS)},
                "compute_output": {"count": round(count), "ns": 0},
            }
            for rows, (count, seconds) in sorted(self._sizes.items())
        ]
        stats = {
            "name": name,
            "version": version,
            "last_inference": self._last_ms,
            "inference_count": self._rows,
            "execution_count": round(self._batches),
            "inference_stats": {
                "success": self._success.as_json(),
                "fail": self._fail.as_json(),
                "queue": self._queue.as_json(),
                "compute_input": none,
                "compute_infer": self._compute.as_json(),
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": batches,
        }
        return {"model_stats": [stats]}
