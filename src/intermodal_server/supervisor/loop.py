"""The supervisor's loop: signals, messages, deaths and time, each handed to the part that has the rules for it.

Takes options, settings and listening sockets; hands on an exit status.

Rules, in order (those of `nursery`, `fronts`, `twins`, `crew`, `memory`, `circuit` and `stand_in` stand there):
1. A model that says why it cannot load at the first start ends the server with that reason; one that dies at the first
   start `MAX_EARLY_DEATHS` times in a row as well. Before it exits, the reason stands on the probe for `linger_s`.
2. Any other death is followed by a replacement, unless the circuit is open. An open circuit is no reason to restart the
   container: liveness stays true, readiness is false and says why.
3. Liveness is false when the server has given up, and when the front itself (not the model in it) keeps dying.
4. SIGTERM or SIGINT drains: the front is told, and given `drain_s` plus one time-out plus `DRAIN_SLACK_S`; exit 0
   when it ends by itself with status 0.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from intermodal_server.contract import ModelSettings
from intermodal_server.log import Log
from intermodal_server.options import Options
from intermodal_server.placement import IN_FRONT, first_mode
from intermodal_server.supervisor.children import FRONT, TWIN, WORKER, Child, Starter
from intermodal_server.supervisor.circuit import CLOSED, OPEN, Circuit
from intermodal_server.supervisor.crew import Crew
from intermodal_server.supervisor.family import family_bytes
from intermodal_server.supervisor.fronts import Fronts
from intermodal_server.supervisor.memory import MemoryWatch
from intermodal_server.supervisor.nursery import Nursery
from intermodal_server.supervisor.stand_in import Truth
from intermodal_server.supervisor.twins import Twins

MAX_EARLY_DEATHS = 3
TICK_S = 0.25
BUSY_TICK_S = 0.02  # while connections wait for a front
TENSE_TICK_S = 0.1  # while memory is scarce
DRAIN_SLACK_S = 10.0
HANG_MARGIN_S = 1.5  # beyond timeout_s, before a front that holds the model is taken to hang
HOLD_MARGIN_S = 10.0  # beyond timeout_s, for who came while a front was replaced
LEAVE_HUNG_S = 3.0  # for a front with a hung model to finish the rest


class Supervisor:
    """The state of PID 1; everything happens in `run`."""

    def __init__(
        self,
        options: Options,
        settings: ModelSettings,
        listeners: Sequence[socket.socket],
        threads: int,
        processes: int,
        memory: MemoryWatch,
        log: Log,
    ) -> None:
        serve = settings.serve
        self._options = options
        self._settings = settings
        self._log = log
        self._memory = memory
        mode = first_mode(options, settings)
        self._in_front = mode in IN_FRONT  # the front holds the model
        self._moved = False  # because it has decided so
        workers = 0 if self._in_front else serve.workers
        self._leave_s = serve.timeout_s + HANG_MARGIN_S
        self._selector = selectors.DefaultSelector()
        self._starter = Starter(options, listeners, workers, threads, mode)
        self._nursery = Nursery(self._starter, self._selector, self._on_message, self._on_death, log)
        self._fronts = Fronts(
            self._nursery,
            listeners,
            self._selector,
            self._truth,
            holds_model=self._in_front,
            hang_s=self._leave_s if self._in_front else options.hang_s,
            hold_s=serve.timeout_s + HOLD_MARGIN_S,
            ready_path=options.vertex.health,
            log=log,
        )
        self._crew = Crew(self._nursery, workers, self._fronts.tell, self._leave_s, log)
        self._twins = Twins(
            self._nursery,
            processes,
            memory,
            self._fronts.tell,
            explicit=serve.processes > 1,
            hang_s=self._leave_s,
            log=log,
        )
        self._circuit = Circuit()  # of the model
        self._front_circuit = Circuit()  # of a front without a model
        self._told = CLOSED
        self._last_death = ""
        self._exit: int | None = None
        self._failure = ""
        self._end_s: float | None = None  # when a failed start or a drain is over in any case
        self._draining = False
        self._lost = False  # a twin died during the drain
        self._now_s = time.monotonic()
        self._memory_due_s = self._now_s

    # --- the loop -----------------------------------------------------------------------------------------------------
    def run(self) -> int:
        """Supervise until the exit status is known."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ, lambda: self._on_signals(os.read(reading, 4096)))
        last_s = self._now_s
        try:
            while self._exit is None:
                self._tick(min(self._now_s - last_s, 2 * TICK_S))
                last_s = self._now_s
                for key, _ in self._selector.select(self._pause_s()):
                    if key.fd in self._selector.get_map():  # an earlier one of this turn may have ended it
                        key.data()
                self._nursery.reap()
                self._now_s = time.monotonic()
        finally:
            self._fronts.finish()
            self._nursery.end()
        return self._exit

    def _pause_s(self) -> float:
        if self._fronts.standing_in:
            return BUSY_TICK_S
        return TENSE_TICK_S if self._memory.pause_s < TICK_S else TICK_S

    def _on_signals(self, received: bytes) -> None:
        if {signal.SIGTERM, signal.SIGINT} & set(received) and not self._draining:
            serve = self._settings.serve
            self._draining = True
            self._end_s = self._now_s + serve.drain_s + serve.timeout_s + DRAIN_SLACK_S
            self._log.info("draining", drain_s=serve.drain_s)
            front = self._fronts.child
            if self._failure or front is None or not front.up:
                self._exit = 1 if self._failure else 0
            else:
                self._fronts.tell("drain")

    def _tick(self, awake_s: float) -> None:
        now_s = self._now_s
        if self._end_s is not None and now_s >= self._end_s and self._exit is None:
            if self._draining:
                self._log.error("the drain did not end in time; requests are lost")
            self._exit = 1
        self._watch_circuit()
        self._twins.follow(self._inline_front())
        if not self._failure and not self._draining:
            self._fill()
            self._watch_memory()
        self._fronts.tick(now_s, awake_s)
        self._twins.tick(now_s, awake_s)
        self._crew.tick(now_s)
        self._nursery.tick(now_s)

    def _fill(self) -> None:
        open_now = self._circuit_state() == OPEN
        try:
            if not (open_now and self._in_front) and self._fronts.fill(self._now_s) is not None:
                self._told = CLOSED
                self._crew.connect_all()
            if not open_now:
                self._crew.fill(self._now_s)
                self._twins.fill(self._now_s)
        except OSError as error:
            self._give_up(f"a process cannot be started: {error.strerror or error}")

    def _inline_front(self) -> Child | None:
        """The front that is ready with the model in its event loop, while it stays."""
        front = self._fronts.child
        if front is None or not front.ready or front.leaving or front.asked_to_die or self._starter.mode != "inline":
            return None
        return front

    # --- what is true -------------------------------------------------------------------------------------------------
    def _circuit_state(self) -> str:
        return self._circuit.state(self._now_s, self._nursery.answers)

    def _truth(self) -> Truth:
        if self._failure:
            return Truth(live=False, reason=f"failed: {self._failure}", hold=False)
        front_dies = self._front_circuit.state(self._now_s, self._nursery.answers) == OPEN
        live = not front_dies and self._fronts.slot.early_deaths < MAX_EARLY_DEATHS
        if self._draining:
            return Truth(live=live, reason="draining", hold=False)
        if self._circuit_state() == OPEN:
            wait_s = self._circuit.wait_s(self._now_s)
            return Truth(live=live, reason=self._circuit_reason(), hold=False, retry_s=max(1, round(wait_s)))
        return Truth(live=live, reason=self._fronts.reason, hold=self._fronts.ever_ready)

    def _circuit_reason(self) -> str:
        return f"the model keeps dying ({self._last_death}); it is started again after a pause"

    def _watch_circuit(self) -> None:
        state = self._circuit_state()
        if state == self._told:
            return
        self._told = state
        if state == OPEN:
            wait_s = self._circuit.wait_s(self._now_s)
            self._log.error("the circuit is open", reason=self._circuit_reason(), pause_s=round(wait_s, 1))
            self._fronts.tell("circuit", reason=self._circuit_reason(), retry_s=max(1, round(wait_s)))
        else:
            self._log.info(f"the circuit is {state}")
            self._fronts.tell("circuit", reason="", retry_s=1)

    def _give_up(self, reason: str) -> None:
        """Say why on the probe for a while, then exit."""
        self._log.error("the server gives up", reason=reason)
        self._failure = reason
        self._end_s = self._now_s + self._options.linger_s
        self._fronts.tell("failed", reason=reason)

    def _watch_memory(self) -> None:
        if self._now_s < self._memory_due_s:
            return
        kinds = (FRONT, TWIN) if self._in_front else (WORKER,)
        models = [child for child in self._nursery if child.kind in kinds and child.up and not child.asked_to_die]
        verdict = self._memory.look(os.getpid(), self._nursery, models, self._log)
        self._memory_due_s = self._now_s + self._memory.pause_s
        if verdict is None:
            return
        child = next(child for child in models if child.pid == verdict.pid)
        if verdict.kill:
            self._log.error(f"{child.name} is killed before memory ends", limit=self._memory.limit_bytes)
            self._nursery.kill(child, "out of memory")
        elif child.kind == TWIN:
            self._twins.retire(child, "it nears the memory limit")
        elif self._in_front:
            self._fronts.retire(child, "it nears the memory limit", beside=verdict.beside, leave_s=self._leave_s)
        else:
            self._crew.retire(child, "it nears the memory limit", beside=verdict.beside)

    # --- deaths -------------------------------------------------------------------------------------------------------
    def _on_death(self, child: Child, how: str, status: int) -> None:
        answers = self._nursery.answers
        if self._memory.kernel_has_killed():
            how = f"{how}; the kernel killed a process for want of memory"
        if child.kind == FRONT and self._draining and child is self._fronts.child:
            self._exit = 0 if status == 0 and not self._failure and not self._lost else 1
            ended = "drained, but a twin had died" if self._lost else f"the front ended during the drain: {how}"
            self._log.info("drained" if self._exit == 0 else ended)
            return
        if child.kind == TWIN:
            self._on_twins_death(child, how, status)
            return
        self._log.warning(f"{child.name} ended", how=how, pid=child.pid, reason=child.end(how))
        slot = self._fronts.slot
        if child.kind == FRONT:
            self._fronts.dead(child, answers)
        else:
            slot = self._crew.dead(child, how, answers) or slot
        if self._failure or child.leaving:
            return
        if child.kind == FRONT and self._moved and self._in_front and not self._fronts.ever_ready:
            self._move("workers")  # there the model had loaded
            return
        if child.kind == WORKER or self._in_front:
            self._last_death = f"last: {child.end(how)}"
            self._circuit.died(self._now_s, answers)
        else:
            self._front_circuit.died(self._now_s, answers)
        if self._fronts.ever_ready and (child.kind == WORKER or self._in_front):
            return
        if child.reason and not child.up:
            self._give_up(child.reason)
        elif slot.early_deaths >= MAX_EARLY_DEATHS:
            self._give_up(f"{child.name} ended {slot.early_deaths} times while it started ({child.end(how)})")

    def _on_twins_death(self, twin: Child, how: str, status: int) -> None:
        self._twins.follow(self._inline_front())
        if status == 0 and (twin.leaving or self._draining):
            self._log.info(f"{twin.name} has finished", pid=twin.pid)
        else:
            self._log.warning(f"{twin.name} ended", how=how, pid=twin.pid, reason=twin.end(how))
        answers = self._nursery.answers
        if self._draining:
            self._lost = self._lost or (twin.up and status != 0)
        elif self._twins.dead(twin, how, answers) and not self._failure:
            self._last_death = f"last: {twin.end(how)}"
            self._circuit.died(self._now_s, answers)

    # --- messages -----------------------------------------------------------------------------------------------------
    def _on_message(self, child: Child, message: dict[str, Any]) -> None:
        kind, reason = message.get("kind"), str(message.get("reason", ""))
        if child.kind == TWIN:
            self._on_twin(child, str(kind), reason)
        elif kind == "started":
            child.loaded_bytes = family_bytes(child.pid)
            self._fronts.started(child)
        elif kind == "loaded":
            child.up, child.loaded_bytes = True, family_bytes(child.pid)
            self._crew.loaded(child, message.get("measured"))
        elif kind == "beat":
            self._fronts.heard(child, reason)
        elif kind == "failed":
            child.reason, child.deaf_s = reason, self._now_s  # threads of a model may keep it from ending
        elif kind == "ready":
            self._fronts.ever_ready = child.ready = True
            child.loaded_bytes = child.noticed_bytes = family_bytes(child.pid)  # with the model, if it is there
            self._log.info("ready", cases=message.get("cases"))
            self._twins.explain(self._starter.mode)
        elif kind == "unfit" and not self._failure:
            self._give_up(reason)
        elif kind == "measured":
            self._starter.measured = message.get("measured")
        elif kind == "mode":
            self._move(str(message.get("mode")))
        elif kind == "left":
            self._crew.left(int(message.get("pid", 0)))
        elif kind == "kill":
            self._on_kill(child, int(message.get("pid", 0)), reason)

    def _on_twin(self, twin: Child, kind: str, reason: str) -> None:
        if kind == "beat":
            self._twins.beat(twin)
        elif kind == "ready" and not self._draining:
            self._twins.ready(twin)
        elif kind == "unfit":
            twin.reason = reason
            self._nursery.kill(twin)

    def _move(self, mode: str) -> None:
        """The front takes the model itself, or gives it back to workers."""
        self._starter.mode = mode
        self._moved, self._in_front = True, mode in IN_FRONT
        self._fronts.holds_model = self._in_front
        self._fronts.hang_s = self._leave_s if self._in_front else self._options.hang_s
        if self._in_front:
            self._crew.dismiss()
        else:
            self._crew.recruit()

    def _on_kill(self, front: Child, pid: int, reason: str) -> None:
        """The front wants a worker replaced, or itself because a model hangs in one of its threads."""
        if pid == front.pid:
            front.killed_for = reason
            self._circuit.died(self._now_s, self._nursery.answers)
            self._last_death = f"last: {reason}"
            beside = self._memory.room_for(front.loaded_bytes)
            self._fronts.retire(front, reason, beside=beside, leave_s=LEAVE_HUNG_S)
        else:
            self._crew.kill(pid, reason)
