"""A real Envoy for tests, and upstreams that say what they were asked."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from intermodal.engine.http import get
from intermodal.engine.interface import Endpoint
from intermodal.host import read
from intermodal.rooms.deploy.envoy import admin, gateway
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, Upstream
from intermodal.rooms.deploy.envoy.program import envoy
from intermodal.rooms.deploy.envoy.render import BOOTSTRAP, bootstrap, pipe
from support.cli import SHARED_CACHE

PATIENCE_S = 30.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program() -> Path:
    """Envoy, from the cache that tests share."""
    here = read()
    return envoy(replace(here, environment={**here.environment, "XDG_CACHE_HOME": str(SHARED_CACHE)}))


class Backend:
    """An HTTP server in a thread that answers with its name and what it was asked; `asked` has the Host headers."""

    def __init__(self, name: str) -> None:
        self.name, self.healthy, self.delay_s, self.status = name, True, 0.0, 200
        self.more = b""  # headers of its answers, each with its line's end
        self.asked: list[str] = []
        self.loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self.port = 0
        threading.Thread(target=self._run, daemon=True).start()
        assert self._listening.wait(PATIENCE_S)

    @property
    def upstream(self) -> Upstream:
        """Where it answers."""
        return Upstream("127.0.0.1", self.port)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._listening.set()
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split(" ", 2)
                headers = {}
                while text := (await reader.readline()).decode().strip():
                    name, _, value = text.partition(":")
                    headers[name.lower()] = value.strip()
                await reader.readexactly(int(headers.get("content-length", "0")))
                health, status = path == "/v2/health/ready", self.status
                if health:
                    status = 200 if self.healthy else 503
                else:
                    self.asked.append(headers.get("host", ""))
                    await asyncio.sleep(self.delay_s)
                body = json.dumps({"name": self.name, "method": method, "path": path, "headers": headers}).encode()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n" % (status, len(body), self.more) + body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            pass
        finally:
            writer.close()

    def close(self) -> None:
        """End it, and every connection; safe to call twice."""
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self._server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)


@dataclass
class RunningEnvoy:
    """Envoy and its files."""

    folder: Path
    process: subprocess.Popen[bytes]
    backends: dict[str, Backend] = field(default_factory=dict)

    @property
    def files(self) -> gateway.LocalFiles:
        """Where its configuration lies."""
        return gateway.LocalFiles(self.folder)

    def ask(self, path: str) -> bytes:
        """Its administration."""
        status, body = get(Endpoint(socket=self.folder / "a"), path, limit=32 << 20)
        assert status == 200, body
        return body

    def apply(self, plan: GatewayPlan, taken_s: float = PATIENCE_S) -> None:
        """Follow a plan."""
        gateway.apply(plan, self.files, self.ask, running=True, taken_s=taken_s)

    def await_healthy(self, model: str, revisions: list[int]) -> None:
        """Wait until each revision has a healthy endpoint."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not all(admin.healthy(self.ask, model, revisions).values()):
            assert time.monotonic() < deadline_s, "never healthy"
            time.sleep(0.02)

    def backend(self, name: str) -> Backend:
        """A new upstream, closed at the end."""
        self.backends[name] = Backend(name)
        return self.backends[name]


@contextmanager
def running_envoy() -> Iterator[RunningEnvoy]:
    """Envoy without any plan yet."""
    folder = Path(tempfile.mkdtemp(prefix="im-"))
    (folder / BOOTSTRAP).write_bytes(bootstrap(str(folder), pipe(str(folder / "a"))))
    gateway.apply(GatewayPlan(), gateway.LocalFiles(folder), lambda _: b"", running=False)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program(), "-c", folder / BOOTSTRAP, "--disable-hot-restart", "--concurrency", "2", "-l", "warning"],
            stdout=log, stderr=log, env={},
        )  # fmt: skip
    found = RunningEnvoy(folder, process)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                found.ask("/ready")
                break
            except (OSError, AssertionError):
                assert time.monotonic() < deadline_s and process.poll() is None, (folder / "log").read_text()
                time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.wait()
        for backend in found.backends.values():
            backend.close()
        shutil.rmtree(folder, ignore_errors=True)


def ask(port: int, path: str = "/v2/models/m/infer", method: str = "POST", **headers: str) -> tuple[int, str, Any]:
    """Status, revision and JSON of one request to the gateway; `_` in a header's name stands for `-`."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, b"{}" if method == "POST" else None,
                           {name.replace("_", "-"): value for name, value in headers.items()})  # fmt: skip
        answer = connection.getresponse()
        body = answer.read()
        document = json.loads(body) if body[:1] == b"{" else body
        return answer.status, answer.getheader("x-intermodal-revision") or "", document
    finally:
        connection.close()
