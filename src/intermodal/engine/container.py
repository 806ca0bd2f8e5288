"""A running container: its logs, its memory, its end. Engines differ only in how they spawn.

Takes a function that spawns and a few things to tidy up; offers `interface.Container`.

Rules, in order:
1. Whoever spawns is a thread that lives as long as the container: the kernel kills a container with the thread that
   started it, so a short-lived one would take it along.
2. `stop` leaves no process and no folder, also when it is interrupted itself.
3. Output is read all the time, so a talkative container never blocks; the last 256 KiB are kept.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from intermodal.engine.doors import Doors
from intermodal.engine.interface import Endpoint, Hardening
from intermodal.engine.memory import family, resident_bytes
from intermodal.engine.runtime import RuntimeFolder
from intermodal.errors import EngineError

LOG_BYTES = 256 << 10
_SAMPLE_S = 0.1
_SETTLE_S = 10.0  # for output to end once everything has been killed

Spawn = Callable[[int], "subprocess.Popen[bytes]"]  # gets the write end of a pipe for {"child-pid": …}


class LocalContainer:
    """A container of processes on this host; implements `interface.Container`.

    Args:
        spawn: starts it, with standard output to a pipe; called in a thread that lives as long as it does.
        endpoint: where it will answer.
        folder: removed at the end.
        doors: closed at the end.
        prove: the hardening of the process with that id, asked for at most once.

    Raises:
        EngineError: it did not start; the message holds what it said.
    """

    def __init__(
        self,
        spawn: Spawn,
        *,
        endpoint: Endpoint,
        folder: RuntimeFolder,
        doors: Doors,
        prove: Callable[[int], Hardening],
    ) -> None:
        self._endpoint = endpoint
        self._folder = folder
        self._doors = doors
        self._prove = prove
        self._log = bytearray()
        self._log_lock = threading.Lock()
        self._peak_bytes = 0
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: BaseException | None = None
        self._handle = -1
        self._pid = 0
        self._status, writer = os.pipe()  # kept open to the end: bwrap also writes there when it ends
        self._keeper = threading.Thread(target=self._keep, args=(spawn, writer), name="container", daemon=True)
        self._keeper.start()
        try:
            self._pid = self._await_pid()
            self._handle = os.pidfd_open(self._pid)
        except BaseException:
            self.stop(0)
            raise
        self._sampler = threading.Thread(target=self._sample, name="container-memory", daemon=True)
        self._sampler.start()

    def _keep(self, spawn: Spawn, writer: int) -> None:
        """Spawn, then read output until the end."""
        try:
            self._process = spawn(writer)
        except BaseException as error:
            self._failure = error
            return
        finally:
            os.close(writer)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while chunk := os.read(output.fileno(), 1 << 16):
                with self._log_lock:
                    self._log += chunk
                    del self._log[:-LOG_BYTES]
        self._process.wait()

    def _await_pid(self) -> int:
        """The process id of the container's first process, as seen from this host."""
        with os.fdopen(os.dup(self._status), "rb") as stream:
            line = stream.readline()
        if line:
            return int(json.loads(line)["child-pid"])
        self._keeper.join(_SETTLE_S)
        if isinstance(self._failure, EngineError):
            raise self._failure
        said = self.logs().strip().splitlines()[-3:] or [str(self._failure or "it said nothing")]
        raise EngineError(
            "the sandbox did not start",
            found=said,
            next="try another way of making it: INTERMODAL_SANDBOX=hardlink (or loader, without isolation)",
        )

    def _sample(self) -> None:
        """Look at the memory of all processes now and then."""
        while not self._stopped.wait(_SAMPLE_S):
            self._peak_bytes = max(self._peak_bytes, resident_bytes(self._pid))

    @property
    def endpoint(self) -> Endpoint:
        """Where the server answers once it is up."""
        return self._endpoint

    @cached_property
    def hardening(self) -> Hardening:
        """What the container has, tried out when first asked for; ask while it runs."""
        return self._prove(self._pid)

    @property
    def folder(self) -> Path:
        """Its folder on this host, where it puts its sockets; it may write there, so nothing in it is believed."""
        return self._folder.path

    @property
    def pid(self) -> int:
        """The first process, as seen from this host."""
        return self._pid

    def logs(self) -> str:
        """What it wrote so far, at most the last 256 KiB."""
        with self._log_lock:
            return self._log.decode("utf-8", "replace")

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def peak_rss_bytes(self) -> int:
        """The highest resident memory of all its processes together seen so far."""
        if not self._stopped.is_set():
            self._peak_bytes = max(self._peak_bytes, resident_bytes(self._pid))
        return self._peak_bytes

    def stop(self, grace_s: float = 10.0) -> int:
        """End it with SIGTERM, after `grace_s` with SIGKILL; its exit status. Safe to call twice."""
        try:
            if self._process is not None and self._process.poll() is None and grace_s > 0:
                self._signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(grace_s)
        finally:
            self._finish()
        return -1 if self._process is None or self._process.returncode is None else self._process.returncode

    def _finish(self) -> None:
        """Kill what is left and tidy up."""
        self._stopped.set()
        if self._process is not None:
            if self._process.poll() is None:
                for member in reversed(family(self._pid)[1:]):  # without a pid namespace nobody else ends them
                    with suppress(ProcessLookupError):
                        os.kill(member, signal.SIGKILL)
            self._signal(signal.SIGKILL)
            if self._handle >= 0:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_SETTLE_S)  # bwrap follows once it has reaped the first process
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._keeper.join(_SETTLE_S)
        for handle in (self._handle, self._status):
            if handle >= 0:
                os.close(handle)
        self._handle = self._status = -1
        self._doors.close()
        self._folder.remove()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process, never to a stranger who got its number."""
        if self._handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def __enter__(self) -> LocalContainer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
