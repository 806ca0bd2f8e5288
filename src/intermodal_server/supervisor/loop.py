"""The supervisor's loop: keeps one front and its workers running, hands connections between them, drains on SIGTERM.

Takes options, settings and listening sockets; hands on an exit status.

Rules, in order:
1. Every child that ends is reaped, orphans of the container too.
2. A worker that says why it cannot load at the first start ends the server with that reason; one that dies at its
   start `MAX_EARLY_DEATHS` times in a row as well. Before it exits, the reason stands on the probe for `linger_s`.
3. Any other death is followed by a replacement, at once the first time, then with growing delay.
4. A front that is silent for `hang_s` is killed and replaced. Only time in which the supervisor itself ran is
   counted, so a paused container does not lose its front when it goes on.
5. SIGTERM or SIGINT drains: the front is told, and given `drain_s` plus one time-out plus `DRAIN_SLACK_S`; exit 0
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

from intermodal_server import control
from intermodal_server.contract import ModelSettings
from intermodal_server.log import Log
from intermodal_server.options import Options
from intermodal_server.supervisor.children import Child, Slot, start_front, start_worker

MAX_EARLY_DEATHS = 3
TICK_S = 0.25
FRONT_START_S = 60.0
DRAIN_SLACK_S = 10.0


class Supervisor:
    """The state of PID 1; everything happens in `run`."""

    def __init__(
        self,
        options: Options,
        settings: ModelSettings,
        listeners: Sequence[socket.socket],
        threads: int,
        log: Log,
    ) -> None:
        self._options = options
        self._settings = settings
        self._listeners = list(listeners)
        self._threads = threads
        self._log = log
        self._front = Slot("front", 0)
        self._workers = [Slot("worker", number) for number in range(1, settings.serve.workers + 1)]
        self._selector = selectors.DefaultSelector()
        self._exit: int | None = None
        self._ever_loaded = False
        self._failure = ""
        self._end_s: float | None = None  # when a failed start or a drain is over in any case
        self._draining = False

    # --- the loop -----------------------------------------------------------------------------------------------------
    def run(self) -> int:
        """Supervise until the exit status is known."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ, None)
        for slot in [self._front, *self._workers]:
            self._start(slot)
        last_s = time.monotonic()
        try:
            while self._exit is None:
                for key, _ in self._selector.select(TICK_S):
                    if key.data is None:
                        self._on_signals(os.read(reading, 4096))
                    else:
                        self._on_messages(key.data)
                self._reap()
                now_s = time.monotonic()
                self._tick(now_s, min(now_s - last_s, 2 * TICK_S))
                last_s = now_s
        finally:
            self._end_children()
        return self._exit

    def _on_signals(self, received: bytes) -> None:
        if {signal.SIGTERM, signal.SIGINT} & set(received) and not self._draining:
            serve = self._settings.serve
            self._draining = True
            self._end_s = time.monotonic() + serve.drain_s + serve.timeout_s + DRAIN_SLACK_S
            self._log.info("draining", drain_s=serve.drain_s)
            if self._failure or self._front.child is None:
                self._exit = 1 if self._failure else 0
            else:
                self._tell_front("drain")

    def _tick(self, now_s: float, awake_s: float) -> None:
        front = self._front.child
        if self._end_s is not None and now_s >= self._end_s and self._exit is None:
            if self._draining:
                self._log.error("the drain did not end in time; requests are lost")
            self._exit = 1
        if front is not None and not front.asked_to_die:
            front.silent_s += awake_s
            limit_s = self._options.hang_s if front.up else FRONT_START_S
            if front.silent_s > limit_s:
                self._log.error("the front hangs and is replaced", silent_s=round(front.silent_s, 1))
                front.kill()
        if not self._failure:
            for slot in [self._front, *self._workers]:
                if slot.child is None and now_s >= slot.due_s and self._exit is None:
                    self._start(slot)

    # --- children -----------------------------------------------------------------------------------------------------
    def _start(self, slot: Slot) -> None:
        now_s = time.monotonic()
        try:
            if slot.kind == "front":
                child = start_front(self._options, self._listeners, len(self._workers), now_s)
            else:
                child = start_worker(self._options, slot.number, self._threads, now_s)
        except OSError as error:
            self._give_up(f"{slot.kind} cannot be started: {error.strerror or error}")
            return
        slot.child = child
        self._selector.register(child.control, selectors.EVENT_READ, slot)
        self._log.info(f"{child.name} starts", pid=child.pid)
        if slot.kind == "front":
            if self._draining:
                self._tell_front("drain")
            for worker in self._workers:
                if worker.child is not None and worker.child.up:
                    self._connect(worker.child)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot in [self._front, *self._workers]:
                if slot.child is not None and slot.child.pid == pid:
                    self._bury(slot, slot.child, _exit_text(status), status)

    def _bury(self, slot: Slot, child: Child, how: str, status: int) -> None:
        self._on_messages(slot)  # what it said last
        if child.control.fileno() >= 0:
            self._selector.unregister(child.control)
            child.control.close()
        child.kill()  # what it has started goes with it
        slot.buried(time.monotonic())
        if slot.kind == "front" and self._draining:
            self._exit = 0 if status == 0 and not self._failure else 1
            self._log.info("drained" if self._exit == 0 else f"the front ended during the drain: {how}")
            return
        self._log.warning(f"{child.name} ended", how=how, pid=child.pid, reason=child.reason)
        if slot.kind == "worker":
            self._tell_front("gone", worker=child.number, reason=how)
        if self._failure:
            return
        if child.reason and not self._ever_loaded:
            self._give_up(child.reason)
        elif slot.early_deaths >= MAX_EARLY_DEATHS:
            why = child.reason or f"{child.name} ended {slot.early_deaths} times while it started ({how})"
            self._give_up(why)

    def _give_up(self, reason: str) -> None:
        """Say why on the probe for a while, then exit."""
        self._log.error("the server gives up", reason=reason)
        self._failure = reason
        self._end_s = time.monotonic() + self._options.linger_s
        if not self._tell_front("failed", reason=reason):
            self._exit = 1

    def _end_children(self) -> None:
        children = [slot.child for slot in [self._front, *self._workers] if slot.child is not None]
        for child in children:
            child.kill()
            child.control.close()
        for child in children:
            try:
                os.waitpid(child.pid, 0)
            except ChildProcessError:
                continue

    # --- messages -----------------------------------------------------------------------------------------------------
    def _tell_front(self, kind: str, **fields: Any) -> bool:
        front = self._front.child
        return front is not None and control.send(front.control, kind, **fields)

    def _connect(self, worker: Child) -> None:
        """Give a loaded worker and the front the two ends of a new connection."""
        front = self._front.child
        if front is None:
            return
        for_front, for_worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with for_front, for_worker:
            if control.send(worker.control, "connection", fd=for_worker.fileno()):
                control.send(front.control, "worker", worker=worker.number, pid=worker.pid, fd=for_front.fileno())

    def _on_messages(self, slot: Slot) -> None:
        child = slot.child
        while child is not None and child.control.fileno() >= 0:
            try:
                received = control.receive(child.control)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, ValueError):
                received = None
            if received is None:
                self._selector.unregister(child.control)
                child.control.close()
                if not child.asked_to_die and child.kind == "worker":
                    child.kill()  # it cannot be told anything any more
                return
            self._on_message(slot, child, received[0])

    def _on_message(self, slot: Slot, child: Child, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind in ("started", "loaded"):
            child.up, child.silent_s, slot.early_deaths = True, 0.0, 0
            if kind == "loaded":
                self._ever_loaded = True
                self._connect(child)
        elif kind == "beat":
            child.silent_s = 0.0
        elif kind == "failed":
            child.reason = str(message.get("reason", ""))
        elif kind == "ready":
            self._log.info("ready", cases=message.get("cases"))
        elif kind == "unfit" and not self._failure:
            self._give_up(str(message.get("reason", "")))
        elif kind == "kill":
            self._kill_worker(int(message.get("pid", 0)), str(message.get("reason", "")))

    def _kill_worker(self, pid: int, reason: str) -> None:
        """Kill that very process, not whoever has taken its place by now."""
        for slot in self._workers:
            if slot.child is not None and slot.child.pid == pid:
                self._log.warning(f"{slot.child.name} is replaced", reason=reason)
                slot.child.kill()


def _exit_text(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"signal {signal.Signals(number).name}"
        except ValueError:
            return f"signal {number}"
    return f"status {os.WEXITSTATUS(status)}"
