"""The twins of a front that answers inline: more processes with the same model, so that more than one core works.

Takes the front that is ready, deaths, messages and time; hands on starts, kills and, to the front, one end of a socket
for each twin. The front accepts all connections and gives some of them to its twins over that socket.

Rules, in order:
1. Twins are started once the front is ready with the model in its event loop, as many as were asked for and memory
   allows, and are told to the front once they have loaded the model and compared golden cases themselves.
2. They belong to that front. When it leaves or dies they finish what they have and go, within `hang_s`; the next
   front gets new ones.
3. One that dies is replaced, at once the first time, then with growing delay. One that could not start
   `MAX_EARLY_DEATHS` times in a row is given up: the front goes on alone.
4. One that is silent for `hang_s` is killed, in time in which the supervisor itself ran.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Callable

from intermodal_server import control
from intermodal_server.log import Log
from intermodal_server.supervisor.children import FRONT, TWIN, Child, Slot
from intermodal_server.supervisor.family import family_bytes
from intermodal_server.supervisor.memory import MemoryWatch
from intermodal_server.supervisor.nursery import Nursery

MAX_EARLY_DEATHS = 3
TellFront = Callable[..., bool]


class Twins:
    """All of them; none while no front answers inline."""

    def __init__(
        self,
        nursery: Nursery,
        processes: int,
        memory: MemoryWatch,
        tell_front: TellFront,
        *,
        explicit: bool,
        hang_s: float,
        log: Log,
    ) -> None:
        self._nursery = nursery
        self._processes = processes
        self._memory = memory
        self._tell_front = tell_front
        self._explicit = explicit  # so many were asked for
        self._hang_s = hang_s
        self._log = log
        self._front: Child | None = None
        self._slots: list[Slot] = []
        self._decided = False  # how many
        self._former: list[Slot] = []  # of a front that is gone
        self._leaving: dict[int, float] = {}  # pid -> when it is killed
        self._told_short = False

    def explain(self, mode: str) -> None:
        """Tell who asked for a number of processes why there is one."""
        if self._explicit and self._processes > 1 and mode != "inline":
            reason = "the model does not run inline: see the mode that was decided"
            self._log.warning("one process answers all requests", asked=self._processes, reason=reason)

    def follow(self, front: Child | None) -> None:
        """Belong to that front from now on; None: there is none that answers inline."""
        if front is self._front:
            return
        self._front = front
        for slot in self._slots:
            if slot.child is not None:
                self._leave(slot.child)
        self._former = [slot for slot in (*self._former, *self._slots) if slot.child is not None]
        self._slots = []
        self._decided = False

    def _decide(self, front: Child) -> None:
        """How many there shall be."""
        self._decided = True
        fitting = 1 + self._memory.copies(front.loaded_bytes, os.getpid(), self._nursery)
        count = min(self._processes, fitting)
        if count < self._processes:
            say = self._log.warning if self._explicit else self._log.info
            say("memory does not allow more processes", processes=count, wanted=self._processes)
        self._slots = [Slot(TWIN, number) for number in range(2, count + 1)]

    def _leave(self, twin: Child) -> None:
        """Let it go; the front, or the end of the front, has told it so, unless they had not met."""
        twin.leaving = True
        self._leaving[twin.pid] = time.monotonic() + self._hang_s
        if not twin.up:
            self._nursery.kill(twin)

    def fill(self, now_s: float) -> None:
        """Start whoever is missing and due, when there is room."""
        front = self._front
        if front is None or self._processes < 2 or self._former or any(self._fronts_before(front)):
            return  # room comes when those of before have gone
        if not self._decided:
            self._decide(front)
        for slot in self._slots:
            if slot.child is not None or now_s < slot.due_s or slot.early_deaths >= MAX_EARLY_DEATHS:
                continue
            if not self._memory.room_for(front.loaded_bytes):
                if not self._told_short:
                    self._log.warning("no room for another process now", process=slot.number)
                self._told_short = True
                return
            self._told_short = False
            try:
                slot.child = self._nursery.twin(slot.number, 1 + len(self._slots))
            except OSError as error:
                self._log.warning("a twin cannot be started", reason=str(error))
                slot.due_s, slot.early_deaths = now_s + 1.0, slot.early_deaths + 1

    def _fronts_before(self, front: Child) -> Iterator[Child]:
        return (child for child in self._nursery if child.kind == FRONT and child is not front)

    def beat(self, twin: Child) -> None:
        """A heartbeat."""
        twin.silent_s = 0.0

    def ready(self, twin: Child) -> None:
        """It can answer: the front may give it connections."""
        twin.up = twin.ready = True
        twin.silent_s = 0.0
        twin.loaded_bytes = twin.noticed_bytes = family_bytes(twin.pid)
        for slot in self._slots:
            if slot.child is twin and not twin.leaving:
                slot.early_deaths = 0
                self._introduce(twin)
                return
        self._nursery.kill(twin)

    def _introduce(self, twin: Child) -> None:
        for_front, for_twin = control.pair()
        with for_front, for_twin:
            if self._tell_front("twin", fd=for_front.fileno(), pid=twin.pid):
                control.send(twin.control, "front", fd=for_twin.fileno())

    def retire(self, twin: Child, reason: str) -> None:
        """Have it finish what it has, and replace it."""
        if twin.leaving:
            return
        self._log.warning(f"{twin.name} is replaced", reason=reason)
        self._leave(twin)
        if not self._tell_front("release", pid=twin.pid):
            self._nursery.kill(twin)

    def dead(self, twin: Child, how: str, answers: int) -> bool:
        """Take note of a dead one; whether the model is to blame: it had answered, and nobody had asked it to go."""
        self._leaving.pop(twin.pid, None)
        blame = twin.up and not twin.leaving
        if twin.up:
            why = twin.killed_for if blame else "memory"
            self._tell_front("gone", worker=twin.number, pid=twin.pid, reason=how, why=why)
        for slot in (*self._slots, *self._former):
            if slot.child is twin:
                slot.buried(twin, time.monotonic(), answers)
                if slot.early_deaths == MAX_EARLY_DEATHS:
                    reason = twin.end(how)
                    self._log.warning("a twin cannot be had; the others go on without it", reason=reason)
        self._former = [slot for slot in self._former if slot.child is not None]
        return blame

    def tick(self, now_s: float, awake_s: float) -> None:
        """End those that hang, and those whose time to leave is over."""
        for child in self._nursery:
            if child.kind != TWIN or child.asked_to_die:
                continue
            child.silent_s += awake_s
            if now_s >= self._leaving.get(child.pid, now_s + 1):
                self._log.warning("a twin that was asked to leave is killed", pid=child.pid)
                self._nursery.kill(child)
            elif child.up and child.silent_s > self._hang_s:
                self._log.error(f"{child.name} hangs and is replaced", silent_s=round(child.silent_s, 1))
                self._nursery.kill(child, "no answer: it hung")
