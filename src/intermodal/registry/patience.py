"""How long to keep trying: pauses that grow, with jitter, and never against a refusal.

Takes what went wrong, hands on how long to wait. A `Patience` is an argument, so that a test turns the clock by hand.

Rules, in order:
1. Only what may pass is tried again: a broken or refused connection, 408, 425, 429, 500, 502, 503, 504.
2. The pause doubles from `first_s` to `most_s`, and a random part of it is taken, so that many clients who were thrown
   out together do not come back together.
3. `Retry-After` wins over that, up to `most_wait_s`; a registry that wants more is an error that names the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from msgspec import Struct

from intermodal.fetch.transfer import RETRIABLE
from intermodal.registry.pace import Speed


def _random() -> float:
    return int.from_bytes(os.urandom(4), "big") / 2**32  # importing `random` costs more than a push of nothing


class Patience(Struct, frozen=True):
    """How often, how long, and by which clock."""

    attempts: int = 6
    first_s: float = 0.25
    most_s: float = 8.0
    most_wait_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = _random  # 0 <= x < 1
    now_s: Callable[[], float] = time.monotonic

    def pause_s(self, attempt: int) -> float:
        """How long to wait after the failure of attempt number `attempt`, counted from 0."""
        return float(min(self.most_s, self.first_s * 2**attempt)) * (0.5 + self.jitter() / 2)

    def wait(self, attempt: int, asked_s: float | None = None) -> None:
        """Wait, at least as long as the registry asked."""
        self.sleep(max(self.pause_s(attempt), min(asked_s or 0.0, self.most_wait_s)))


class Manner(Struct, frozen=True):
    """How a run treats registries: how patient it is, and how slow they may be."""

    patience: Patience = Patience()
    speed: Speed = Speed()
    read_s: float = 60.0  # for one piece of an answer


def may_pass(status: int) -> bool:
    """Whether an answer of this status can become another one by waiting."""
    return status in RETRIABLE


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """What Retry-After asks for, in seconds from now; None without it.

    Args:
        headers: of the answer.
        now_s: seconds since the epoch; None of its dates are trusted to be ours, so a past one is 0.

    Spec: RFC 9110, "Retry-After".
    """
    value = headers.get("Retry-After", "").strip()
    if value.isdigit() and len(value) < 9:
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s) if value else None
    except (TypeError, ValueError):
        return None
