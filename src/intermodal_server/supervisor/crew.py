"""The workers: each place filled, whoever dies replaced, whoever must go replaced after its request.

Takes deaths, messages and verdicts, hands on starts, kills and words to the front.

Rules, in order:
1. A death that nobody asked for is followed by a replacement, at once the first time, then with growing delay; while
   the circuit is open by none.
2. `retire` with a successor: that loads beside the old worker, and the front moves over when it can be asked. Without
   room for both the front first lets the old one finish.
3. A worker that is leaving has `leave_s` to finish its request; then it is killed.
"""

from __future__ import annotations

import socket
import time
from typing import Any, Callable

from intermodal_server import control
from intermodal_server.log import Log
from intermodal_server.supervisor.children import WORKER, Child, Slot
from intermodal_server.supervisor.family import alive
from intermodal_server.supervisor.nursery import Nursery

TellFront = Callable[..., bool]


class Crew:
    """The workers of one server; none in the modes where the front holds the model."""

    def __init__(self, nursery: Nursery, size: int, tell_front: TellFront, leave_s: float, log: Log) -> None:
        self._nursery = nursery
        self._tell_front = tell_front
        self._leave_s = leave_s
        self._log = log
        self._slots = [Slot(WORKER, number) for number in range(1, size + 1)]
        self._size = size
        self._leaving: dict[int, float] = {}  # pid -> when it is killed
        self._measured: Any = None  # what the first worker found out about the model

    def slot_of(self, child: Child) -> Slot | None:
        """The place that a worker fills or will fill."""
        return next((slot for slot in self._slots if child in (slot.child, slot.successor)), None)

    @property
    def up(self) -> list[Child]:
        """Workers that have loaded the model and are not leaving."""
        return [slot.child for slot in self._slots if slot.child and slot.child.up and not slot.child.leaving]

    def fill(self, now_s: float) -> None:
        """Start whoever is missing and due.

        Raises:
            OSError: a process cannot be started.
        """
        for slot in self._slots:
            if slot.child is None and now_s >= slot.due_s:
                slot.child = self._nursery.worker(slot.number)

    def connect(self, worker: Child) -> None:
        """Give a loaded worker and the front the two ends of a new connection."""
        for_front, for_worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with for_front, for_worker:
            about = {"worker": worker.number, "pid": worker.pid, "measured": self._measured}
            if self._tell_front("worker", fd=for_front.fileno(), **about):
                control.send(worker.control, "connection", fd=for_worker.fileno())

    def connect_all(self) -> None:
        """Give a new front every worker."""
        for worker in self.up:
            self.connect(worker)

    def loaded(self, worker: Child, measured: Any = None) -> None:
        """A worker can be asked; what it measured, if it did, is for every front that comes."""
        self._measured = measured or self._measured
        slot = self.slot_of(worker)
        if slot is None:
            return
        slot.early_deaths = 0
        self.connect(worker)
        if worker is slot.successor and slot.child is not None:
            old, slot.child, slot.successor = slot.child, worker, None
            self._let_go(old)

    def dismiss(self) -> None:
        """End all of them, because the front takes the model itself."""
        slots, self._slots = self._slots, []
        for slot in slots:
            for child in filter(None, (slot.child, slot.successor)):
                child.leaving = True
                self._nursery.kill(child)

    def recruit(self) -> None:
        """Make places for workers again, because the front cannot take the model."""
        self._slots = self._slots or [Slot(WORKER, number) for number in range(1, self._size + 1)]

    def retire(self, worker: Child, reason: str, *, beside: bool) -> None:
        """Replace a worker after its request."""
        slot = self.slot_of(worker)
        if slot is None or worker is not slot.child or worker.leaving or slot.successor is not None:
            return
        self._log.warning(f"{worker.name} is replaced", reason=reason, successor_first=beside)
        if beside:
            number = slot.number if worker.number != slot.number else slot.number + len(self._slots)
            try:
                slot.successor = self._nursery.worker(number)
                return
            except OSError as error:
                self._log.warning("a successor cannot be started beside it", reason=str(error))
        self._let_go(worker)

    def _let_go(self, worker: Child) -> None:
        worker.leaving = True
        self._leaving[worker.pid] = time.monotonic() + self._leave_s
        if not self._tell_front("leave", worker=worker.number, pid=worker.pid):
            self._nursery.kill(worker)

    def left(self, pid: int) -> None:
        """The front has let a worker finish."""
        for child in self._nursery:
            if child.pid == pid and child.leaving:
                self._nursery.kill(child, "it was replaced")

    def tick(self, now_s: float) -> None:
        """End those whose time to leave is over."""
        for child in self._nursery:
            if now_s >= self._leaving.get(child.pid, now_s + 1):
                self._nursery.kill(child)

    def dead(self, child: Child, how: str, answers: int) -> Slot | None:
        """Take note of a dead worker; its place."""
        self._leaving.pop(child.pid, None)
        slot = self.slot_of(child)
        why = "memory" if child.leaving else child.killed_for
        self._tell_front("gone", worker=child.number, pid=child.pid, reason=how, why=why)
        if slot is not None:
            slot.buried(child, time.monotonic(), answers)
        return slot

    def kill(self, pid: int, reason: str) -> bool:
        """Kill that very process, not whoever has taken its place by now, nor one whose own end tells more."""
        for child in self._nursery:
            if child.pid == pid and child.kind == WORKER and not child.asked_to_die and alive(pid):
                self._log.warning(f"{child.name} is replaced", reason=reason)
                self._nursery.kill(child, reason)
                return True
        return False

    def words(self) -> dict[str, Any]:
        """For the log: how many there are."""
        return {"workers": len(self.up), "of": len(self._slots)}
