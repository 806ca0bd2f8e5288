"""The guard of rates: so many requests a second and so many at a time, for each caller by name, or for all together.

Takes an exchange, refuses with 429 and a `Retry-After` that is worth following; is told when the exchange ends.

Rules, in order: open paths count for nothing; a caller's bucket holds `burst` tokens, is filled by `rate_per_s` and
pays one for each request; a request that would be one too many at a time pays nothing.
"""

from __future__ import annotations

import math

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.guard.access import OpenPaths
from intermodal_server.front.limits import Refusal

MAX_LANES = 10_000
MAX_RETRY_S = 3600


class Lane:
    """What one caller has used."""

    __slots__ = ("filled_s", "running", "tokens")

    def __init__(self, tokens: float, now_s: float) -> None:
        self.tokens = tokens
        self.filled_s = now_s
        self.running = 0


class Rates:
    """The lanes of all callers; 0 turns a limit off."""

    def __init__(self, rate_per_s: float, burst: int, max_concurrent: int, open_paths: OpenPaths) -> None:
        self._rate = rate_per_s
        self._burst = float(burst or max(1, math.ceil(rate_per_s)))
        self._most = max_concurrent
        self._open = open_paths
        self._lanes: dict[str, Lane] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Let the exchange pass and count it.

        Raises:
            Refusal: 429 with Retry-After.
        """
        if exchange.path in self._open:
            return
        now_s = exchange.started_s
        lane = self._lanes.get(exchange.caller) or self._add(exchange.caller, now_s)
        if self._most and lane.running >= self._most:
            raise _refusal(f"at most {self._most} requests at a time", 1)
        if self._rate:
            tokens = min(self._burst, lane.tokens + max(0.0, now_s - lane.filled_s) * self._rate)
            lane.filled_s = max(now_s, lane.filled_s)
            lane.tokens = tokens
            if tokens < 1.0:
                raise _refusal(f"at most {self._rate:g} requests a second", (1.0 - tokens) / self._rate)
            lane.tokens = tokens - 1.0
        lane.running += 1
        exchange.lane = lane

    def ended(self, exchange: Exchange, _status: int) -> None:
        """Take note that the exchange is over; one that was refused here never began."""
        lane, exchange.lane = exchange.lane, None
        if isinstance(lane, Lane):
            lane.running -= 1

    def _add(self, caller: str, now_s: float) -> Lane:
        if len(self._lanes) >= MAX_LANES:  # names of keys that are long gone
            self._lanes = {name: lane for name, lane in self._lanes.items() if lane.running}
        lane = self._lanes[caller] = Lane(self._burst, now_s)
        return lane


def _refusal(what: str, wait_s: float) -> Refusal:
    seconds = min(MAX_RETRY_S, max(1, math.ceil(wait_s)))
    message = f"too many requests: {what} are allowed"
    return Refusal(429, message, headers=((b"retry-after", b"%d" % seconds),))
