"""All children at once: started, listened to, killed with their families, reaped, counted.

Takes a `Starter` and two callbacks, hands on messages and deaths. Knows nothing of why a child should live.

Rules, in order:
1. Every process that ends is reaped, orphans of the container too.
2. A child that has not been able to hear for `DEAF_S` is killed.
3. With a child dies everything it has started.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Iterator
from typing import Any, Callable

from intermodal_server import control
from intermodal_server.log import Log
from intermodal_server.pulse import Pulse
from intermodal_server.supervisor.children import Child, Starter
from intermodal_server.supervisor.family import kill_family
from intermodal_server.supervisor.output import Output

DEAF_S = 1.0
OnMessage = Callable[[Child, "dict[str, Any]"], None]
OnDeath = Callable[[Child, str, int], None]  # how it ended, in words and as a wait status


class Nursery:
    """The children that run now."""

    def __init__(
        self,
        starter: Starter,
        selector: selectors.BaseSelector,
        on_message: OnMessage,
        on_death: OnDeath,
        log: Log,
    ) -> None:
        self._starter = starter
        self._selector = selector
        self._on_message = on_message
        self._on_death = on_death
        self._log = log
        self._children: dict[int, Child] = {}
        self._outputs: dict[int, Output] = {}
        self._pulses: dict[int, Pulse] = {}
        self._answers_of_dead = 0

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    @property
    def answers(self) -> int:
        """Good answers of all children, dead ones too."""
        return self._answers_of_dead + sum(page.answers for page in self._pulses.values())

    # --- starting and ending ------------------------------------------------------------------------------------------
    def front(self, *, held: bool) -> Child:
        """Start a front.

        Raises:
            OSError: it cannot be started.
        """
        return self._adopt_with_page(self._starter.front(held=held, now_s=time.monotonic()))

    def twin(self, number: int, processes: int) -> Child:
        """Start a twin of the front, one of so many processes.

        Raises:
            OSError: it cannot be started.
        """
        return self._adopt_with_page(self._starter.twin(number, processes, time.monotonic()))

    def worker(self, number: int) -> Child:
        """Start a worker.

        Raises:
            OSError: it cannot be started.
        """
        return self._adopt(self._starter.worker(number, time.monotonic()))

    def _adopt_with_page(self, child: Child) -> Child:
        self._pulses[child.pid] = Pulse(child.page)
        os.close(child.page)
        return self._adopt(child)

    def _adopt(self, child: Child) -> Child:
        child.answers_before = self.answers
        self._children[child.pid] = child
        self._selector.register(child.control, selectors.EVENT_READ, lambda: self._listen(child))
        printed = Output(child.printed, Log(child.name), time.monotonic())
        self._outputs[child.pid] = printed
        self._selector.register(child.printed, selectors.EVENT_READ, lambda: self._read(printed))
        self._log.info(f"{child.name} starts", pid=child.pid)
        return child

    def kill(self, child: Child, reason: str = "") -> None:
        """End it and everything it has started, at once."""
        child.asked_to_die = True
        child.killed_for = child.killed_for or reason
        kill_family(child.pid, child.mark, set(self._children))

    def end(self) -> None:
        """Kill and reap all of them."""
        children = list(self)
        for child in children:
            self.kill(child)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
            self._forget(child)

    # --- hearing ------------------------------------------------------------------------------------------------------
    def _read(self, printed: Output) -> None:
        if not printed.read(time.monotonic()):
            self._selector.unregister(printed.descriptor)

    def tick(self, now_s: float) -> None:
        """Kill the deaf, and let the log say what models have printed too much."""
        for child in self:
            if now_s - child.deaf_s >= DEAF_S and not child.asked_to_die:
                self.kill(child, "it closed its control socket")
        for printed in self._outputs.values():
            printed.report(now_s)

    def _listen(self, child: Child) -> None:
        while child.control.fileno() >= 0:
            try:
                received = control.receive(child.control)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, ValueError):
                received = None
            if received is None:
                self._selector.unregister(child.control)
                child.control.close()
                child.deaf_s = time.monotonic()  # mostly because it is dying, and then its own status tells more
                return
            self._on_message(child, received[0])

    # --- reaping ------------------------------------------------------------------------------------------------------
    def reap(self) -> None:
        """Bury every process that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is not None:
                self._bury(child, status)

    def _bury(self, child: Child, status: int) -> None:
        self._listen(child)  # what it said last
        self._children.pop(child.pid)
        kill_family(0, child.mark, set(self._children))
        self._forget(child)
        self._on_death(child, exit_text(status), status)

    def _forget(self, child: Child) -> None:
        self._children.pop(child.pid, None)
        if child.control.fileno() >= 0:
            self._selector.unregister(child.control)
            child.control.close()
        printed = self._outputs.pop(child.pid)
        if printed.descriptor in self._selector.get_map():
            self._selector.unregister(printed.descriptor)
        printed.finish(time.monotonic())
        page = self._pulses.pop(child.pid, None)
        if page is not None:
            self._answers_of_dead += page.answers
            page.close()


def exit_text(status: int) -> str:
    """How a process ended, in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"signal {signal.Signals(number).name}"
        except ValueError:
            return f"signal {number}"
    return f"status {os.WEXITSTATUS(status)}"
