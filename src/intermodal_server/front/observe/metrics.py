"""Counters of requests: how many, how they ended, how long they took, waited and computed.

Takes every exchange at its begin and its end, hands on families for the metrics page and plain numbers for the judge.

Rules, in order:
1. Every request is counted by protocol, status and traffic, none of which a client can make up.
2. Durations, rows and batches are those of requests to the model alone (`protocol` is not `http`), whatever came of
   them; waiting and computing of those that reached the model.
3. Counts begin anew with the process; `since_s` and `instance` say when.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe.exposition import Family, Histogram, Labels, Sample

_STEPS = (1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.24, 2.5, 2.8, 3.15, 3.55, 4.0, 4.5, 5.0, 5.6, 6.3, 7.1, 8.0, 9.0)
FINE_EDGES_S = tuple(edge for power in range(-4, 2) for step in _STEPS if (edge := round(step * 10.0**power, 6)) <= 63)
EDGES_S = tuple(edge for power in range(-5, 2) for step in _STEPS[::4] if (edge := round(step * 10.0**power, 7)) <= 63)
ROW_EDGES = tuple(float(1 << power) for power in range(13))
NOT_INFERENCE = "http"
_NUMBERS = ("rows", "runs", "succeeded", "failed")
_HISTOGRAMS = ("duration", "queue", "compute", "batch")


class Traffic:
    """What requests of one traffic class took."""

    __slots__ = ("batch", "compute", "duration", "failed", "queue", "rows", "runs", "succeeded")

    def __init__(self) -> None:
        self.duration = Histogram(FINE_EDGES_S)
        self.queue = Histogram(EDGES_S)
        self.compute = Histogram(EDGES_S)
        self.batch = Histogram(ROW_EDGES)
        self.rows = 0
        self.runs = 0.0  # of the model: a request is the share of one that its rows have in the batch
        self.succeeded = 0
        self.failed = 0

    def take(self) -> dict[str, Any]:
        """Everything, for `add`."""
        found: dict[str, Any] = {name: getattr(self, name) for name in _NUMBERS}
        found.update({name: getattr(self, name).take() for name in _HISTOGRAMS})
        return found

    def add(self, taken: Mapping[str, Any]) -> None:
        """Add what another process has counted."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + taken[name])
        for name in _HISTOGRAMS:
            getattr(self, name).add_taken(taken[name])


class Metrics:
    """The counters; one for the life of the front."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self.since_s = now()
        self.instance = os.urandom(8).hex()
        self.inflight = 0
        self.elsewhere: dict[int, int] = {}  # process id of a twin -> requests that it is answering
        self.requests: dict[tuple[str, int, str], int] = {}  # protocol, status, traffic
        self.by_traffic: dict[str, Traffic] = {"live": Traffic()}
        self._clock = clock

    def began(self, _: Exchange) -> None:
        """A request has come."""
        self.inflight += 1

    def ended(self, exchange: Exchange, status: int) -> None:
        """A request is over. Called for each, so every line here is measured in `benchmarks/serving`."""
        self.inflight -= 1
        key = (exchange.protocol, status, exchange.traffic)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        if exchange.protocol == NOT_INFERENCE:
            return
        traffic = self.by_traffic.get(exchange.traffic)
        if traffic is None:
            traffic = self.by_traffic[exchange.traffic] = Traffic()
        if status < 400:
            traffic.succeeded += 1
        else:
            traffic.failed += 1
        elapsed_s = self._clock() - exchange.started_s
        histogram = traffic.duration
        histogram.sum += elapsed_s
        histogram.counts[bisect_left(FINE_EDGES_S, elapsed_s)] += 1
        compute_s = exchange.compute_s
        if compute_s <= 0:
            return
        rows, batch_rows, queue_s = exchange.rows, exchange.batch_rows, exchange.queue_s
        if status < 400:
            traffic.rows += rows
        if batch_rows > 0:
            traffic.runs += rows / batch_rows
            histogram = traffic.batch
            histogram.sum += batch_rows
            histogram.counts[bisect_left(ROW_EDGES, batch_rows)] += 1
        histogram = traffic.compute
        histogram.sum += compute_s
        histogram.counts[bisect_left(EDGES_S, compute_s)] += 1
        histogram = traffic.queue
        histogram.sum += queue_s
        histogram.counts[bisect_left(EDGES_S, queue_s)] += 1

    def families(self) -> Iterator[Family]:
        """Everything counted here."""
        requests = [
            ("", (("protocol", protocol), ("code", str(status)), ("traffic", traffic)), float(count))
            for (protocol, status, traffic), count in sorted(self.requests.items())
        ]
        yield Family("intermodal_requests", "counter", "Requests by how they ended.", whole(requests))
        yield Family(
            "intermodal_request_duration_seconds",
            "histogram",
            "From the request's head to its answer, requests to the model alone.",
            self._histograms("duration"),
        )
        yield Family(
            "intermodal_queue_duration_seconds",
            "histogram",
            "From the request's tensors to the model taking them.",
            self._histograms("queue"),
        )
        yield Family(
            "intermodal_compute_duration_seconds",
            "histogram",
            "How long the model worked on the batch that the request went with.",
            self._histograms("compute"),
        )
        yield Family(
            "intermodal_batch_rows",
            "histogram",
            "Rows of the batch that the request went with.",
            self._histograms("batch"),
        )
        rows: list[Sample] = [
            ("", (("traffic", name),), traffic.rows) for name, traffic in sorted(self.by_traffic.items())
        ]
        yield Family("intermodal_rows", "counter", "Rows that the model has answered.", rows)
        inflight = self.inflight + sum(self.elsewhere.values())
        yield Family(
            "intermodal_inflight_requests", "gauge", "Requests begun and not yet answered.", [("", (), inflight)]
        )

    def _histograms(self, field: str) -> Iterator[Sample]:
        for name, traffic in sorted(self.by_traffic.items()):
            histogram: Histogram = getattr(traffic, field)
            yield from histogram.samples((("traffic", name),))

    def take(self) -> dict[str, Any]:
        """What was counted since this was last asked, for `add` of another process."""
        requests, self.requests = self.requests, {}
        by_traffic, self.by_traffic = self.by_traffic, {"live": Traffic()}
        return {
            "requests": [[*key, count] for key, count in requests.items()],
            "by_traffic": {name: traffic.take() for name, traffic in by_traffic.items()},
        }

    def add(self, taken: Mapping[str, Any]) -> None:
        """Count what another process has counted."""
        for protocol, status, traffic, count in taken["requests"]:
            key = (protocol, status, traffic)
            self.requests[key] = self.requests.get(key, 0) + count
        for name, found in taken["by_traffic"].items():
            self.by_traffic.setdefault(name, Traffic()).add(found)

    def as_json(self) -> dict[str, Any]:
        """Requests to the model by traffic: how they ended, how long they took."""
        found: dict[str, Any] = {}
        for name, traffic in self.by_traffic.items():
            codes: dict[str, int] = {}
            for (protocol, status, whose), count in self.requests.items():
                if whose == name and protocol != NOT_INFERENCE:
                    codes[str(status)] = codes.get(str(status), 0) + count
            found[name] = {
                "codes": codes,
                "rows": traffic.rows,
                "duration_s": {"sum": traffic.duration.sum, "counts": list(traffic.duration.counts)},
            }
        return found


def whole(samples: Iterable[tuple[str, Labels, float]]) -> list[Sample]:
    """Samples whose values are written without a point."""
    return [(suffix, labels, int(value)) for suffix, labels, value in samples]


def triton_families(metrics: Metrics, model: Mapping[str, str], pending: int) -> Iterator[Family]:
    """The counters under the names that dashboards for Triton know; microseconds, all traffic together.

    Spec: Triton Inference Server, "Metrics", inference request metrics.
    """
    labels: Labels = tuple(model.items())
    all_traffic = list(metrics.by_traffic.values())

    def one(value: float) -> list[Sample]:
        return [("", labels, value)]

    def microseconds(field: str) -> list[Sample]:
        return one(round(sum(getattr(traffic, field).sum for traffic in all_traffic) * 1e6))

    counted: tuple[tuple[str, str, list[Sample]], ...] = (
        ("nv_inference_request_success", "Successful requests.", one(sum(t.succeeded for t in all_traffic))),
        ("nv_inference_request_failure", "Failed requests.", one(sum(t.failed for t in all_traffic))),
        ("nv_inference_count", "Rows that the model has answered.", one(sum(t.rows for t in all_traffic))),
        ("nv_inference_exec_count", "Runs of the model.", one(round(sum(t.runs for t in all_traffic)))),
        ("nv_inference_request_duration_us", "Time of requests, in all.", microseconds("duration")),
        ("nv_inference_queue_duration_us", "Time of waiting, in all.", microseconds("queue")),
        ("nv_inference_compute_infer_duration_us", "Time of computing, in all.", microseconds("compute")),
    )
    for name, text, samples in counted:
        yield Family(name, "untyped", text, samples)  # their names do not end as those of counters must
    yield Family("nv_inference_pending_request_count", "gauge", "Requests that wait for the model.", one(pending))
