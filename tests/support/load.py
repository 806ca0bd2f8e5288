"""Users of a model, at a constant rate over kept connections, who never ask twice: what is lost is told."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 60.0


@dataclass
class Load:
    """Asks `path` on a port of this machine until the `with` block ends.

    `answers` counts (revision, status); `lost` holds what got no answer, or one that no revision gave; `times_s` how
    long answers took, by revision.
    """

    port: int
    path: str
    body: Callable[[random.Random], dict[str, Any]]
    rate: float
    connections: int = 16
    headers: dict[str, str] = field(default_factory=dict)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    times_s: dict[str, list[float]] = field(default_factory=dict)

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        rng, began = random.Random(7), time.monotonic()
        free: asyncio.Queue[_Connection] = asyncio.Queue()
        for _ in range(self.connections):
            free.put_nowait(_Connection(self.port))
        pending: set[asyncio.Task[None]] = set()
        number = 0
        while not self._over.is_set():
            number += 1
            pause = began + number / self.rate - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            else:
                began -= pause  # this machine is too slow for the rate: ask as fast as it goes, but no faster
                await asyncio.sleep(0)
            data = json.dumps(self.body(rng)).encode()
            connection = await free.get()
            task = asyncio.create_task(self._ask(connection, data, free))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)
        while not free.empty():
            free.get_nowait().close()

    async def _ask(self, connection: _Connection, data: bytes, free: asyncio.Queue[_Connection]) -> None:
        began = time.monotonic()
        try:
            status, headers, body = await asyncio.wait_for(connection.ask(self.path, data, self.headers), TIMEOUT_S)
        except (TimeoutError, OSError, EOFError, ValueError) as error:
            self.lost.append(repr(error))
            connection.close()
        else:
            revision = headers.get("x-intermodal-revision", "")
            self.answers[revision, status] += 1
            self.times_s.setdefault(revision, []).append(time.monotonic() - began)
            if not revision or status in (502, 503, 504, 429):
                self.lost.append(f"{status} {body[:200]!r}")
        free.put_nowait(connection)


class _Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, data: bytes, more: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {more.get('Host', 'localhost')}\r\n{lines}"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        first = await reader.readline()
        if not first:
            raise EOFError("the connection was closed without an answer")
        status = int(first.split()[1])
        headers = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, headers, body

    def close(self) -> None:
        """Close it; the next question opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
