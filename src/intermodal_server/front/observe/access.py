"""A line of the log for each request that somebody may ask about.

Takes finished exchanges, hands on lines. `errors`: answers of 400 and above; `all`: every one; `off` makes no observer.

Rules, in order:
1. A probe that says "not ready" is no error of a request: it is left out of `errors`.
2. At most `MAX_PER_S` lines a second in `errors`, so that a flood of bad requests cannot become a flood of lines; how
   many were left out is told with the next line.
3. Neither headers nor bodies nor addresses of clients enter a line; of the path the first `MAX_PATH_CHARS`.
"""

from __future__ import annotations

import time
from typing import Any, Callable

from intermodal_server.front.exchange import Exchange
from intermodal_server.log import Log

MAX_PER_S = 100
MAX_PATH_CHARS = 256


class AccessLog:
    """The observer that writes the lines."""

    def __init__(self, log: Log, *, everything: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._all = everything
        self._clock = clock
        self._second = -1
        self._written = 0
        self._left_out = 0

    def ended(self, exchange: Exchange, status: int) -> None:
        """A request is over."""
        if status < 400 and not self._all:
            return
        now_s = self._clock()
        if not self._all:
            if status == 503 and exchange.protocol == "http":
                return
            if int(now_s) != self._second:
                self._second, self._written = int(now_s), 0
            if self._written >= MAX_PER_S:
                self._left_out += 1
                return
            self._written += 1
        fields: dict[str, Any] = {
            "request": exchange.request_id,
            "method": exchange.method,
            "path": exchange.path[:MAX_PATH_CHARS],
            "status": status,
            "protocol": exchange.protocol,
            "traffic": exchange.traffic,
            "seconds": round(now_s - exchange.started_s, 6),
        }
        trace_id = _trace_id(exchange)
        if trace_id:
            fields["trace"] = trace_id
        if exchange.compute_s:
            fields["rows"], fields["batch_rows"] = exchange.rows, exchange.batch_rows
            fields["queue_s"], fields["compute_s"] = round(exchange.queue_s, 6), round(exchange.compute_s, 6)
        if self._left_out:
            fields["left_out"], self._left_out = self._left_out, 0
        say = self._log.error if status >= 500 else self._log.warning if status >= 400 else self._log.info
        say("request", **fields)


def _trace_id(exchange: Exchange) -> str:
    """The trace that the request belongs to, also where this server makes no spans; "" when there is none."""
    if exchange.trace is not None:
        return exchange.trace.trace_id
    given = exchange.headers.get(b"traceparent")
    if given is None:
        return ""
    from intermodal_server.front.observe.trace.context import parse_parent

    parent = parse_parent(given)
    return parent[0] if parent else ""
