"""One child process as the supervisor sees it: how it is started, what it said, when it may be started again.

Takes `Options` for the command lines, hands on `Child` values; sends no signals but to processes it started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from intermodal_server import contract
from intermodal_server.control import pair
from intermodal_server.options import Options

CODE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SETTLED_S = 10.0  # a process that lived so long after its start begins with a clean sheet
MAX_DELAY_S = 5.0


@dataclass
class Child:
    """A running front or worker."""

    kind: str  # front | worker
    number: int
    pid: int
    control: socket.socket
    started_s: float
    up: bool = False  # said "started" or "loaded"
    reason: str = ""  # why it failed, in its own words
    silent_s: float = 0.0  # time the supervisor has spent awake since the last heartbeat
    asked_to_die: bool = False

    @property
    def name(self) -> str:
        """How log lines call it."""
        return "front" if self.kind == "front" else f"worker-{self.number}"

    def kill(self) -> None:
        """End it and everything it has started, at once."""
        self.asked_to_die = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


@dataclass
class Slot:
    """A place for one child, kept filled; remembers how its predecessors ended."""

    kind: str
    number: int
    child: Child | None = None
    early_deaths: int = 0  # in a row, before the child was up
    delay_s: float = 0.0
    due_s: float = 0.0
    reasons: list[str] = field(default_factory=list)

    def buried(self, now_s: float) -> None:
        """Take note that the child is dead, and decide when the next may start."""
        child, self.child = self.child, None
        if child is None:
            return
        if not child.up:
            self.early_deaths += 1
        lived_s = now_s - child.started_s
        if child.up and lived_s >= SETTLED_S:
            self.delay_s = 0.0
        self.due_s = now_s + self.delay_s
        self.delay_s = min(MAX_DELAY_S, max(0.1, self.delay_s * 2))


def _spawn(command: Sequence[str], inherited: Sequence[int]) -> int:
    process = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, pass_fds=list(inherited), start_new_session=True
    )
    process.returncode = 0  # reaped by the supervisor's own wait, not by this object
    return process.pid


def _interpreter(options: Options) -> list[str]:
    return list(options.python) or [sys.executable]


def start_front(options: Options, listeners: Sequence[socket.socket], workers: int, now_s: float) -> Child:
    """A new front on the shared listening sockets."""
    ours, theirs = pair()
    descriptors = [listener.fileno() for listener in listeners]
    command = [
        *(*_interpreter(options), "-I", "-S", CODE_DIR, "front"),
        *("--control", str(theirs.fileno()), "--parent", str(os.getpid()), "--workers", str(workers)),
        *("--listen", ",".join(map(str, descriptors))),
    ]
    pid = _spawn(command, [theirs.fileno(), *descriptors])
    theirs.close()
    ours.setblocking(False)
    return Child("front", 0, pid, ours, now_s)


def worker_command(options: Options) -> list[str]:
    """The interpreter of the model's environment, with what comes before the role.

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


def start_worker(options: Options, number: int, threads: int, now_s: float) -> Child:
    """A new worker that will load the model and say so."""
    ours, theirs = pair()
    command = [
        *worker_command(options),
        *("--control", str(theirs.fileno()), "--parent", str(os.getpid())),
        *("--number", str(number), "--threads", str(threads)),
    ]
    pid = _spawn(command, [theirs.fileno()])
    theirs.close()
    ours.setblocking(False)
    return Child("worker", number, pid, ours, now_s)
