"""What the application calls when traces are on: a guard that begins a trace, an observer that ends it.

Takes exchanges, hands on finished requests to the exporter. Probes and everything else that is no request to the model
make no spans.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Callable

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe.exposition import Family
from intermodal_server.front.observe.metrics import NOT_INFERENCE
from intermodal_server.front.observe.trace.context import begin
from intermodal_server.front.observe.trace.export import Exporter
from intermodal_server.front.observe.trace.otlp import NS, Finished
from intermodal_server.front.observe.trace.settings import TraceSettings
from intermodal_server.log import Log


class Tracer:
    """The traces of this front."""

    def __init__(
        self,
        settings: TraceSettings,
        log: Log,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._sampler = settings.sampler
        self._exporter = Exporter(settings, log)
        self._clock = clock
        self._now_ns = now_ns
        self._told = (0, 0)
        self._elsewhere = (0, 0)  # of twins

    def began(self, exchange: Exchange) -> None:
        """A request has come: find its trace. Where the client gives no request id, the trace is in the one we make."""
        exchange.trace = trace = begin(exchange.headers, self._sampler)
        if b"x-request-id" not in exchange.headers:
            exchange.request_id = f"{trace.trace_id}-{trace.span_id}"

    def ended(self, exchange: Exchange, status: int) -> None:
        """A request is over."""
        trace = exchange.trace
        if trace is None or not trace.sampled or exchange.protocol == NOT_INFERENCE:
            return
        elapsed_s = self._clock() - exchange.started_s
        began_ns = self._now_ns() - int(elapsed_s * NS)
        self._exporter.add(
            Finished(
                trace,
                exchange.method,
                exchange.path,
                exchange.protocol,
                status,
                exchange.request_id,
                exchange.traffic,
                began_ns,
                elapsed_s,
                began_ns + int((exchange.entered_s - exchange.started_s) * NS),
                exchange.queue_s,
                exchange.compute_s,
                exchange.rows,
                exchange.batch_rows,
            )
        )

    def families(self) -> Iterator[Family]:
        """How many requests' spans were sent and dropped."""
        sent, dropped = self._exporter.sent + self._elsewhere[0], self._exporter.dropped + self._elsewhere[1]
        counted = (("sent", sent), ("dropped", dropped))
        yield Family(
            "intermodal_traced_requests",
            "counter",
            "Requests whose spans were sent, or dropped because the queue was full or the collector refused.",
            [("", (("result", result),), count) for result, count in counted],
        )

    @property
    def changed(self) -> bool:
        """Whether `take` has something to tell."""
        return self._told != (self._exporter.sent, self._exporter.dropped)

    def take(self) -> tuple[int, int]:
        """How many requests' spans were sent and dropped since this was last asked, for `add` of the front."""
        (sent, dropped), self._told = self._told, (self._exporter.sent, self._exporter.dropped)
        return self._told[0] - sent, self._told[1] - dropped

    def add(self, taken: Sequence[int]) -> None:
        """Count what a twin has sent and dropped."""
        self._elsewhere = (self._elsewhere[0] + taken[0], self._elsewhere[1] + taken[1])

    def close(self) -> None:
        """Send what waits; blocks for a moment."""
        self._exporter.close()
