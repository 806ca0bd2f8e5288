"""The process that keeps one replica or one gateway of the sandbox target running: `python -m … FOLDER LOCK`.

Takes a folder with `spec.json` and the folder's lock; runs what it says until SIGTERM.

Rules, in order:
1. What ends by itself is started again, on the same port, after a pause that grows with each end in a row.
2. SIGTERM ends it in order: a replica finishes what it has. A second one changes nothing.
3. It says in `status.json` where its child answers, how often it ended, and its last words. The log is bounded.
4. Its child does not outlive it, nor does it outlive its folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from intermodal import host as hosts
from intermodal.engine.hardening import SOCKET_FOLDER
from intermodal.engine.interface import Endpoint, RunRequest
from intermodal.engine.run import Log
from intermodal.engine.runtime import RuntimeFolder
from intermodal.engine.sandbox import SandboxEngine
from intermodal.errors import IntermodalError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy.render import BOOTSTRAP, bootstrap, pipe
from intermodal.rooms.deploy.targets.kept import replace_file
from intermodal.rooms.deploy.targets.last_words import reason_in

METRICS_SOCKET = "metrics.sock"
ENV_METRICS_SOCKET = "INTERMODAL_METRICS_SOCKET"
_POLL_S = 0.05
_PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_S = 20.0  # after so long its earlier ends are forgotten
_LOG_BYTES = 1 << 20
_LAST_LINES = 30


class Child(Protocol):
    """What a keeper keeps."""

    def start(self) -> dict[str, Any]:
        """Start it; where it answers."""
        ...

    def poll(self) -> int | None:
        """Its exit status, or None while it runs; also passes its output on."""
        ...

    def tidy(self) -> None:
        """Put away what is left after it ended by itself."""
        ...

    def stop(self) -> None:
        """End it, in order."""
        ...

    def last_words(self) -> list[str]:
        """The end of what it said."""
        ...


class LogFile(Events):
    """A log of bounded size: at most two files of 1 MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("ab")

    def output(self, line: str) -> None:
        """Write a line."""
        self._stream.write(line.encode("utf-8", "replace") + b"\n")
        self._stream.flush()
        if self._stream.tell() > _LOG_BYTES:
            self._stream.close()
            self.path.rename(self.path.with_name(f"{self.path.name}.1"))
            self._stream = self.path.open("ab")

    def notice(self, message: str) -> None:
        """Write a line."""
        self.output(message)

    def warning(self, message: str) -> None:
        """Write a line."""
        self.output(message)

    def tail(self, lines: int) -> list[str]:
        """Its last lines."""
        return self.path.read_text("utf-8", "replace").splitlines()[-lines:]


class Replica:
    """A container of the sandbox engine behind a port on loopback."""

    def __init__(self, spec: dict[str, Any], host: Host, log: LogFile) -> None:
        self._spec, self._log = spec, log
        self._engine = SandboxEngine(Store(host.data_dir / "store"), host)
        self._port = 0
        self._running: Any = None
        self._lines: Log | None = None

    def start(self) -> dict[str, Any]:
        """A container; the port of the one before, when it can be had."""
        environment = dict(self._spec["environment"])
        if self._engine.ability.way != "loader":
            environment[ENV_METRICS_SOCKET] = f"{SOCKET_FOLDER}/{METRICS_SOCKET}"
        request = RunRequest(Digest.parse(self._spec["image"]), environment, port=self._port, events=self._log)
        try:
            self._running = self._engine.start(request)
        except IntermodalError:
            self._port = 0
            raise
        endpoint: Endpoint = self._running.endpoint
        self._port = endpoint.port
        self._lines = Log(self._running, self._log, every_s=0)
        return {"port": endpoint.port, "metrics": str(self._running.folder / METRICS_SOCKET), "pid": self._running.pid}

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        if self._lines is not None:
            self._lines.pass_on()
        return None if self._running is None else self._running.poll()

    def tidy(self) -> None:
        """Remove what is left of an ended container."""
        self.stop()

    def stop(self) -> None:
        """End it after its drain."""
        if self._running is not None:
            self._running.stop(float(self._spec["grace_s"]))
            if self._lines is not None:
                self._lines.pass_on(last=True)
            self._running = None

    def last_words(self) -> list[str]:
        """The end of its log."""
        return self._log.tail(_LAST_LINES)


class Gateway:
    """Envoy as a plain process."""

    def __init__(self, spec: dict[str, Any], host: Host, log: LogFile) -> None:
        self._spec, self._log = spec, log
        self._runtime = RuntimeFolder(host)
        self._process: Any = None

    def start(self) -> dict[str, Any]:
        """Envoy with the configuration that lies in its folder."""
        import subprocess

        folder, admin = Path(self._spec["files"]), self._runtime.path / "admin.sock"
        admin.unlink(missing_ok=True)
        replace_file(folder / BOOTSTRAP, bootstrap(str(folder), pipe(str(admin))))
        program = [self._spec["program"], "-c", str(folder / BOOTSTRAP), "--disable-hot-restart"]
        program += ["--concurrency", str(self._spec["threads"]), "--log-level", "warning", "--drain-time-s", "5"]
        with self._log.path.open("ab") as output:
            self._process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={}, cwd="/",
                preexec_fn=_die_with_parent,
            )  # fmt: skip
        return {"admin": str(admin), "pid": self._process.pid, "born": f"{self._process.pid}-{time.monotonic_ns()}"}

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def tidy(self) -> None:
        """Nothing is left of an ended Envoy."""

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            finally:
                self._process.kill()
                self._process.wait()
        self._runtime.remove()

    def last_words(self) -> list[str]:
        """The end of its log."""
        return self._log.tail(_LAST_LINES)


def _die_with_parent() -> None:
    """Ask the kernel to end this process with its parent."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Asked:
    """Whether a keeper shall end: somebody said so, or its folder is gone, so that nobody could say so any more."""

    def __init__(self, folder: Path) -> None:
        self._spec = folder / "spec.json"
        self.told = False

    def __bool__(self) -> bool:
        return self.told or not self._spec.exists()


def keep(child: Child, folder: Path, stopped: Asked) -> None:
    """Keep `child` running until it shall end."""
    ends: list[float] = []
    while not stopped:
        said: dict[str, Any] = {}
        try:
            said = child.start()
            problem: list[str] = []
        except IntermodalError as error:
            problem = str(error).splitlines()
        began_s = time.monotonic()
        _tell(folder, {**said, "ends": len(ends), "problem": problem})
        while not problem and not stopped:
            if (status := child.poll()) is not None:
                words = reason_in(child.last_words())
                problem = [f"ended with status {status}" + (f": {words}" if words else "")]
            time.sleep(_POLL_S)
        if stopped:
            break
        child.tidy()
        if time.monotonic() - began_s > _STEADY_S:
            ends.clear()
        ends.append(time.monotonic())
        _tell(folder, {"ends": len(ends), "problem": problem})
        until_s = time.monotonic() + _PAUSES_S[min(len(ends), len(_PAUSES_S)) - 1]
        while time.monotonic() < until_s and not stopped:
            time.sleep(_POLL_S)
    child.stop()


def _tell(folder: Path, status: dict[str, Any]) -> None:
    with suppress(FileNotFoundError):  # the folder is gone: `Asked` sees it
        replace_file(folder / "status.json", json.dumps(status).encode())


def main(arguments: list[str]) -> int:
    """Keep what the folder's specification says; 0 after an orderly end."""
    folder = Path(arguments[0])  # the second argument is the lock's number: held by being open
    os.set_inheritable(int(arguments[1]), False)
    stopped = Asked(folder)
    signal.signal(signal.SIGTERM, lambda *_: setattr(stopped, "told", True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replace_file(folder / "pid", str(os.getpid()).encode())
    spec = json.loads((folder / "spec.json").read_bytes())
    host, log = hosts.read(), LogFile(folder / "log")
    child: Child = Gateway(spec, host, log) if spec["kind"] == "gateway" else Replica(spec, host, log)
    keep(child, folder, stopped)
    (folder / "status.json").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
