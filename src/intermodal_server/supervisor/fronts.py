"""The front: always one that takes connections, or the stand-in; watched by its heartbeat.

Takes deaths, messages and time, hands on starts, kills and what is true of the front.

Rules, in order:
1. A front that is silent for `hang_s` is killed and replaced. Only time in which the supervisor itself ran is counted,
   so a paused container does not lose its front when it goes on. One that holds the model and has not loaded it yet
   may be silent for as long as that takes, as a worker may.
2. The stand-in takes connections whenever no front does: before the first has started, after one has died, and from
   `UNHEARD_S` of silence on. What it holds goes to the front that comes, or comes back.
3. Once the server was ready, a new front takes connections only when it is ready, too: nobody is answered 503 because a
   process was replaced.
4. `retire` with a successor: the old one leaves when that takes connections. Without: it leaves at once, and the
   stand-in holds who comes. One that leaves takes no new connections, finishes what it has, and has `leave_s` for it.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any, Callable

from intermodal_server import control
from intermodal_server.log import Log
from intermodal_server.supervisor.children import FRONT, Child, Slot
from intermodal_server.supervisor.nursery import Nursery
from intermodal_server.supervisor.stand_in import StandIn, Truth

FRONT_START_S = 60.0
UNHEARD_S = 2.0


class Fronts:
    """The front, its successor, and those that are leaving."""

    def __init__(
        self,
        nursery: Nursery,
        listeners: Sequence[socket.socket],
        selector: selectors.BaseSelector,
        truth: Callable[[], Truth],
        *,
        holds_model: bool,
        hang_s: float,
        hold_s: float,
        ready_path: str,
        log: Log,
    ) -> None:
        self._nursery = nursery
        self._stand_in = StandIn(listeners, selector, truth, hold_s, ready_path)
        self.holds_model = holds_model
        self.hang_s = hang_s
        self._log = log
        self._leaving: dict[int, float] = {}
        self.slot = Slot(FRONT, 0)
        self.ever_ready = False

    @property
    def child(self) -> Child | None:
        """The front that is there or coming."""
        return self.slot.child

    @property
    def serving(self) -> bool:
        """Whether a front takes connections now."""
        child = self.slot.child
        return (
            child is not None
            and child.up
            and not child.leaving
            and not child.asked_to_die
            and child.silent_s < UNHEARD_S
        )

    @property
    def reason(self) -> str:
        """Why no front is ready, for the probe."""
        child = self.slot.child
        if child is not None and child.up and child.silent_s >= UNHEARD_S:
            return "the front does not answer"
        if not self.ever_ready:
            return child.said if child is not None and child.said else "loading"
        return "the front is being replaced"

    def tell(self, kind: str, **fields: Any) -> bool:
        """Send the front a message; False when it cannot be told."""
        child = self.slot.child
        return child is not None and child.control.fileno() >= 0 and control.send(child.control, kind, **fields)

    def fill(self, now_s: float) -> Child | None:
        """Start a front when there is none and one is due; that front.

        Raises:
            OSError: a process cannot be started.
        """
        if self.slot.child is not None or now_s < self.slot.due_s:
            return None
        self.slot.child = self._nursery.front(held=self.holds_model or self.ever_ready)
        return self.slot.child

    def started(self, child: Child) -> None:
        """A front takes connections."""
        child.up, child.silent_s = True, 0.0
        self.slot.early_deaths = 0
        if child is self.slot.successor and self.slot.child is not None:
            old, self.slot.child, self.slot.successor = self.slot.child, child, None
            self._let_go(old, self.hang_s)

    def heard(self, child: Child, said: str) -> None:
        """A heartbeat."""
        child.silent_s, child.said = 0.0, said

    def retire(self, child: Child, reason: str, *, beside: bool, leave_s: float) -> None:
        """Replace a front, or let it go first."""
        if child is not self.slot.child or child.leaving or child.asked_to_die or self.slot.successor is not None:
            return
        self._log.warning("the front is replaced", reason=reason, successor_first=beside)
        if beside:
            try:
                self.slot.successor = self._nursery.front(held=True)
                return
            except OSError as error:
                self._log.warning("a successor cannot be started beside it", reason=str(error))
        self._let_go(child, leave_s)

    def _let_go(self, child: Child, leave_s: float) -> None:
        child.leaving = True
        self._leaving[child.pid] = time.monotonic() + leave_s
        if child.control.fileno() < 0 or not control.send(child.control, "leave"):
            self._nursery.kill(child)

    def dead(self, child: Child, answers: int) -> None:
        """Take note of a dead front."""
        self._leaving.pop(child.pid, None)
        self.slot.buried(child, time.monotonic(), answers)

    # --- time ---------------------------------------------------------------------------------------------------------
    def tick(self, now_s: float, awake_s: float) -> None:
        """Watch the heartbeat, and let the stand-in take or hand over connections."""
        for child in (self.slot.child, self.slot.successor):
            if child is not None and not child.leaving and not child.asked_to_die:
                child.silent_s += awake_s
                if child.silent_s > self._patience_s(child):
                    self._log.error("the front hangs and is replaced", silent_s=round(child.silent_s, 1))
                    self._nursery.kill(child, "it hung")
        for child in self._nursery:
            if now_s >= self._leaving.get(child.pid, now_s + 1):
                self._log.warning("a front that was asked to leave is killed", pid=child.pid)
                self._nursery.kill(child)
        if self.serving:
            self._stand_in.close()
            self._stand_in.hand_over(lambda descriptor: self.tell("adopt", fd=descriptor))
        else:
            self._stand_in.open(now_s)
        self._stand_in.tick(now_s)

    def _patience_s(self, child: Child) -> float:
        if child.up:
            return self.hang_s
        return float("inf") if self.holds_model else FRONT_START_S

    @property
    def standing_in(self) -> bool:
        """Whether connections wait for the supervisor."""
        return not self.serving or self._stand_in.held > 0

    def finish(self) -> None:
        """Answer who still waits, at the end."""
        self._stand_in.finish()
