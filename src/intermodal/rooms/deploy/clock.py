"""A clock for rollouts: it never goes back, not within a process and not from one to the next.

Takes the highest time ever stored, hands on the time now, in seconds since the epoch as far as the machine's clock
could be trusted.

Rules, in order:
1. Within a process it counts what has passed since it was made, by a clock that nobody can set and that goes on while
   the machine sleeps. Setting the machine's time does nothing.
2. A new process begins at the machine's time, or at the highest time stored if that is later: after the machine's time
   was set back, steps last longer, never shorter.
3. The machine's time set forward while no process runs is believed: a step's time may then be over at once, which
   holds the rollout for data and raises no weight.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def _ticking() -> float:
    """Seconds that only grow, sleep included where the system can tell."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Clock:
    """Seconds since the epoch that never fall.

    Args:
        last_s: the highest time stored so far.
        wall: the machine's time; anybody may set it.
        ticking: seconds that only grow.
    """

    def __init__(
        self, last_s: float, *, wall: Callable[[], float] = time.time, ticking: Callable[[], float] = _ticking
    ) -> None:
        self._wall = wall
        self._ticking = ticking
        self._began = ticking()
        self._base = max(wall(), last_s)

    def now_s(self) -> float:
        """The time now."""
        return self._base + max(0.0, self._ticking() - self._began)

    def words(self) -> str:
        """The machine's time as people read it, "2026-11-26T12:00:00Z"; nothing is decided by it."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall()))
