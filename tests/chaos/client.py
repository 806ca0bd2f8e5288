"""A client of its own: raw HTTP/1.1 over the server's Unix socket, kept connections, no second tries.

Takes bodies, hands on what came back with the times at which it was asked and answered. A connection that the server
has closed while it was idle is not used again; one that closes in the middle of a request is told as `CLOSED`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

CLOSED, SILENT = 0, -1  # instead of a status
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Came:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    asked_s: float  # by the clock that log lines use
    came_s: float


class Client:
    """Connections to one server."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.in_flight = 0

    async def ask(self, method: str, target: str, body: bytes = b"", *, fresh: bool = False) -> Came:
        """One request; on a connection of its own when `fresh`."""
        asked_s = time.time()
        self.in_flight += 1
        try:
            status, headers, data = await asyncio.wait_for(self._ask(method, target, body, fresh), PATIENCE_S)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status, headers, data = CLOSED, {}, b""
        except TimeoutError:
            status, headers, data = SILENT, {}, b""
        finally:
            self.in_flight -= 1
        return Came(status, headers, data, asked_s, time.time())

    async def _ask(self, method: str, target: str, body: bytes, fresh: bool) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self._connection(fresh)
        kept = False
        try:
            head = f"{method} {target} HTTP/1.1\r\nhost: chaos\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            data = await reader.readexactly(int(headers["content-length"]))
            kept = not fresh and headers.get("connection") != "close"
            return int(lines[0].split()[1]), headers, data
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connection(self, fresh: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle and not fresh:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_unix_connection(self._path)

    async def close(self) -> None:
        """Close the kept connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
