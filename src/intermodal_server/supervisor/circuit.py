"""Whether to go on replacing a model that keeps dying: a circuit, closed (serving), open (waiting), half open (trying).

Takes deaths and the number of good answers so far, with the time of each; hands on a state. Pure: no clock, no I/O.

Rules, in order:
1. `DEATHS` deaths within `WINDOW_S` with fewer good answers than deaths between them open the circuit. A model that
   dies now and then while it answers the rest is replaced each time and goes on.
2. An open circuit waits for a pause, then is half open: the model is started and asked again.
3. Half open, the next death opens it again for twice the pause, up to `LONGEST_S`.
4. Half open, `GOOD` good answers close it, and the pause is short again.
"""

from __future__ import annotations

from collections import deque

DEATHS = 5
WINDOW_S = 60.0
GOOD = 5
SHORTEST_S = 1.0
LONGEST_S = 60.0

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half open"


class Circuit:
    """One circuit; `answers` is a count that only grows."""

    def __init__(self) -> None:
        self._deaths: deque[tuple[float, int]] = deque(maxlen=DEATHS)
        self._pause_s = SHORTEST_S
        self._until_s: float | None = None  # end of the pause; None: closed
        self._tried_from = 0  # good answers when it became half open
        self._half_open = False

    def died(self, now_s: float, answers: int) -> None:
        """Take note of a death that nobody asked for."""
        self._deaths.append((now_s, answers))
        if self._until_s is not None:
            if self.state(now_s, answers) == HALF_OPEN:
                self._pause_s = min(LONGEST_S, self._pause_s * 2)
                self._open(now_s)
            return
        first_s, before = self._deaths[0]
        if len(self._deaths) == DEATHS and now_s - first_s <= WINDOW_S and answers - before < DEATHS:
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        self._until_s = now_s + self._pause_s
        self._half_open = False

    def state(self, now_s: float, answers: int) -> str:
        """Where it stands now."""
        if self._until_s is None:
            return CLOSED
        if now_s < self._until_s:
            return OPEN
        if not self._half_open:
            self._half_open, self._tried_from = True, answers
        if answers - self._tried_from >= GOOD:
            self._until_s, self._pause_s = None, SHORTEST_S
            self._deaths.clear()
            return CLOSED
        return HALF_OPEN

    def wait_s(self, now_s: float) -> float:
        """How long it stays open; 0 when it is not."""
        return max(0.0, (self._until_s or now_s) - now_s)
