"""Child processes as the supervisor sees them: how they are started, what they said, when the next may start.

Takes `Options` for the command lines, hands on `Child` values; what they print comes back through a pipe, so that a
model that writes to descriptor 1 or 2 meets the log's limits and nothing else. Our own log lines take a descriptor of
their own.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from intermodal_server import contract, pulse
from intermodal_server.control import pair
from intermodal_server.options import Options
from intermodal_server.supervisor import family, output

CODE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FRONT, TWIN, WORKER = "front", "twin", "worker"
SETTLED_S = 10.0  # a process that lived so long after its start begins with a clean sheet
SETTLED_ANSWERS = 5  # and so does one that has answered
MAX_DELAY_S = 5.0
OOM_SCORES = {FRONT: 200, TWIN: 400, WORKER: 500}  # whom the kernel should take before the supervisor, when memory ends


@dataclass(eq=False)
class Child:
    """A running front, twin or worker."""

    kind: str  # FRONT, TWIN or WORKER
    number: int
    pid: int
    mark: str
    control: socket.socket
    printed: int  # descriptor: what it prints
    page: int  # descriptor of the page with its count of good answers, -1 for a worker
    started_s: float
    held: bool = False  # a front that takes no connections before it is ready
    up: bool = False  # said "started" or "loaded"; a twin: "ready"
    ready: bool = False  # a front or a twin that has loaded its model and compared golden cases
    leaving: bool = False  # asked to finish what it has and go
    asked_to_die: bool = False
    reason: str = ""  # why it failed, in its own words
    killed_for: str = ""  # why it was killed, in ours
    said: str = ""  # by a front: why it is not ready
    deaf_s: float = math.inf  # when it closed its control socket
    silent_s: float = 0.0  # time the supervisor has spent awake since the last heartbeat
    answers_before: int = 0  # good answers of all children when it started
    loaded_bytes: int = 0  # memory once it was up
    noticed_bytes: int = 0  # memory when its growth was last told

    def end(self, how: str) -> str:
        """Why it ended: its own words, or ours when we killed it, or how the kernel puts it."""
        return self.reason or (self.killed_for if how.startswith("signal SIGKILL") else "") or how

    @property
    def name(self) -> str:
        """How log lines call it."""
        return "front" if self.kind == FRONT else f"{self.kind}-{self.number}"


@dataclass(eq=False)
class Slot:
    """A place for one child, kept filled; remembers how its predecessors ended."""

    kind: str
    number: int
    child: Child | None = None
    successor: Child | None = None  # starts while the child still works
    early_deaths: int = 0  # in a row, before the child was up
    delay_s: float = 0.0
    due_s: float = 0.0

    def buried(self, child: Child, now_s: float, answers: int) -> None:
        """Take note that a child of this slot is dead, and decide when the next may start."""
        if child is self.successor:
            self.successor = None
            return
        if child is not self.child:
            return
        self.child, self.successor = self.successor, None
        if child.leaving:
            return
        if not child.up:
            self.early_deaths += 1
        elif now_s - child.started_s >= SETTLED_S or answers - child.answers_before >= SETTLED_ANSWERS:
            self.delay_s = 0.0
        self.due_s = now_s + self.delay_s
        self.delay_s = min(MAX_DELAY_S, max(0.1, self.delay_s * 2))


class Starter:
    """Starts children with their descriptors; one for the life of the supervisor."""

    def __init__(
        self, options: Options, listeners: Sequence[socket.socket], workers: int, threads: int, mode: str
    ) -> None:
        self._options = options
        self._listeners = [listener.fileno() for listener in listeners]
        self._workers = workers
        self._threads = threads
        self.mode = mode  # how the next front begins
        self.measured: Any = None  # by a front that holds the model, for the next one
        self._measured = False  # whether a worker has been told to

    def front(self, *, held: bool, now_s: float) -> Child:
        """A new front on the shared listening sockets.

        Raises:
            OSError: it cannot be started.
        """
        arguments = [
            *("--workers", str(self._workers), "--threads", str(self._threads)),
            *("--listen", ",".join(map(str, self._listeners))),
            *(["--hold"] if held else []),
        ]
        child = self._with_model(FRONT, 0, arguments, self._listeners, now_s)
        child.held = held
        return child

    def twin(self, number: int, processes: int, now_s: float) -> Child:
        """A new twin of the front, one of so many processes.

        Raises:
            OSError: it cannot be started.
        """
        arguments = ["--number", str(number), "--processes", str(processes)]
        return self._with_model(TWIN, number, arguments, [], now_s)

    def _with_model(
        self, kind: str, number: int, arguments: Sequence[str], inherited: Sequence[int], now_s: float
    ) -> Child:
        """A process that serves requests, and counts its good answers on a page."""
        page = pulse.new_page()
        about = ["--pulse", str(page), "--mode", self.mode, "--measured", json.dumps(self.measured)]
        command = [*_interpreter(self._options), "-I", "-S", CODE_DIR, kind, *about, *arguments]
        try:
            child = _spawn(kind, number, command, [page, *inherited], now_s)
        except OSError:
            os.close(page)
            raise
        child.page = page
        return child

    def worker(self, number: int, now_s: float) -> Child:
        """A new worker that will load the model and say so.

        Raises:
            OSError: it cannot be started.
        """
        measure = "no" if self._measured else "mode" if self.mode == "auto" else "batch"
        self._measured = True  # a trial that ends the process is not tried twice
        arguments = ["--number", str(number), "--threads", str(self._threads), "--measure", measure]
        return _spawn(WORKER, number, [*worker_command(self._options), *arguments], [], now_s)


def _spawn(kind: str, number: int, command: Sequence[str], inherited: Sequence[int], now_s: float) -> Child:
    ours, theirs = pair()
    reading, writing = output.pipe()
    log = os.dup(2)
    mark = f"{kind}-{number}-{secrets.token_hex(8)}"
    try:
        process = subprocess.Popen(
            [*command, "--control", str(theirs.fileno()), "--parent", str(os.getpid()), "--log", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            pass_fds=[theirs.fileno(), log, *inherited],
            env={**os.environ, family.MARK: mark},
            start_new_session=True,
        )
    except OSError:
        ours.close()
        os.close(reading)
        raise
    finally:
        theirs.close()
        os.close(writing)
        os.close(log)
    process.returncode = 0  # reaped by the supervisor's own wait, not by this object
    _prefer_to_kill(process.pid, OOM_SCORES[kind])
    ours.setblocking(False)
    return Child(kind, number, process.pid, mark, ours, reading, -1, now_s)


def _prefer_to_kill(pid: int, score: int) -> None:
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError:  # not Linux, or it is gone already
        return


def _interpreter(options: Options) -> list[str]:
    return list(options.python) or [sys.executable]


def worker_command(options: Options) -> list[str]:
    """The interpreter of the model's environment, with what comes before the arguments.

    The venv's own where it can be started; with an explicit loader there is no venv, so the worker adds the venv's
    packages itself.
    """
    if options.worker_python:
        return [options.worker_python, "-I", CODE_DIR, "worker"]
    venv = options.path(contract.VENV_DIR)
    if options.python:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return [*options.python, "-I", "-S", CODE_DIR, "worker", "--site", f"{venv}/lib/{version}/site-packages"]
    python = f"{venv}/bin/python3"
    return [python if os.path.exists(python) else sys.executable, "-I", CODE_DIR, "worker"]
