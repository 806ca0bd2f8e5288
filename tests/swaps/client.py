"""Load that never asks twice: keep-alive connections, one number a request, and what became of each.

Takes a port, hands on counts and the losses in words. A request is lost when anything but its own answer comes: another
status, another number, no answer, half of one, or a connection that ends under it. A connection that was told to close
is opened anew, as every client does; nothing else is done again.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field

PATIENCE_S = 60.0
INFER = "/v2/models/echo/infer"


@dataclass
class Counts:
    """What became of the requests."""

    answered: int = 0
    lost: list[str] = field(default_factory=list)


class Load:
    """Connections that ask until they are told to end, on a loop of their own."""

    def __init__(self, port: int, connections: int) -> None:
        self.counts = Counts()
        self._port = port
        self._end = threading.Event()
        self._next = 0
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(connections),))
        self._thread.start()

    def end(self) -> Counts:
        """Let every connection finish its request."""
        self._end.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.counts

    async def _run(self, connections: int) -> None:
        await asyncio.gather(*(self._connection(number) for number in range(connections)))

    async def _connection(self, number: int) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while not self._end.is_set():
            self._next += 1
            value, stage = self._next, "connecting"
            try:
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                stage = "waiting for the answer"
                async with asyncio.timeout(PATIENCE_S):
                    writer.write(_request(value))
                    status, closes, body = await _answer(reader)
            except (OSError, EOFError, ValueError) as error:
                self._lose(f"connection {number}, {stage}: {type(error).__name__} {error}")
                closes, body, status = True, b"", 0
            if status == 200 and json.loads(body)["outputs"][0]["data"] == [2.0 * value]:
                self.counts.answered += 1
            elif status:
                self._lose(f"connection {number}: {status} {body[:200]!r}")
            if closes and writer is not None:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    def _lose(self, what: str) -> None:
        self.counts.lost.append(what)


def _request(value: int) -> bytes:
    item = {"name": "x", "datatype": "FP64", "shape": [1], "data": [value]}
    body = json.dumps({"inputs": [item]}).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: swaps\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Status, whether the connection ends, and body; an end before that is an error."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(fields["content-length"]))
    return int(lines[0].split()[1]), fields.get("connection") == "close", body
