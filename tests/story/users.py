"""Users who never try again: requests at a steady rate through a gateway, every answer counted, by revision.

Takes an address and a rate, hands on a `Tally`. An open loop: a slow server meets the requests that users would have
sent. Connections are kept; nothing is sent twice, so a connection that breaks at any moment is a lost request.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from intermodal.rooms.deploy.envoy.plan import REVISION_HEADER

PATIENCE_S = 30.0
LIVE_FROM = 100  # golden cases ask for smaller numbers
EVEN_SHARE = 0.9
_SPARE = 8


@dataclass
class Tally:
    """What came back."""

    answers: Counter[tuple[int, int]] = field(default_factory=Counter)  # by revision (0: the gateway) and status
    broken: Counter[str] = field(default_factory=Counter)  # no answer, by what happened
    times: list[tuple[float, int]] = field(default_factory=list)  # (monotonic time of an answer, its revision)
    trouble: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.answers.values()) + sum(self.broken.values())

    def errors(self, revision: int) -> int:
        """A revision's own failures: its answers with 500, which the gateway rightly hands on."""
        return self.answers[revision, 500]

    def lost(self, bad: tuple[int, ...] = ()) -> int:
        """Requests without the answer of a model, beyond the 500s of revisions that answer so on purpose."""
        own = sum(count for (one, status), count in self.answers.items() if one in bad and status == 500)
        good = sum(count for (one, status), count in self.answers.items() if one and status == 200)
        return self.requests - good - own


class Users:
    """A load in a thread of its own, for the length of a `with` block."""

    def __init__(
        self, port: int, model: str, *, rate_per_s: float, host: str = "users", path: str = "", seed: int = 1
    ) -> None:
        self.tally = Tally()
        self._port, self._rate_per_s = port, rate_per_s
        self._target, self._host = f"{path}/v2/models/{model}/infer", host
        self._random = random.Random(seed)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="users", daemon=True)
        self.value: Callable[[], float] = self._some_value

    def __enter__(self) -> Users:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(PATIENCE_S + 5)

    def _some_value(self) -> float:
        """A number that is even in nine of ten cases."""
        return LIVE_FROM + 2 * self._random.randrange(1000) + (self._random.random() >= EVEN_SHARE)

    async def _run(self) -> None:
        began_s, number, under_way = time.monotonic(), 0, set()
        while not self._ended.is_set():
            due_s = began_s + number / self._rate_per_s
            if (wait_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(self._one(due_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
        await asyncio.gather(*under_way)
        for _, writer in self._idle:
            writer.close()

    async def _one(self, due_s: float) -> None:
        try:
            status, headers, answer = await asyncio.wait_for(self._ask(), PATIENCE_S)
        except (OSError, asyncio.IncompleteReadError, ValueError, TimeoutError) as error:
            what = f"{type(error).__name__}: {error}"[:80]
            self.tally.broken[type(error).__name__] += 1
            self._note(what)
            return
        now_s, revision = time.monotonic(), int(headers.get(REVISION_HEADER, "0"))
        self.tally.answers[revision, status] += 1
        self.tally.times.append((now_s, revision))
        self.tally.latencies_s.append(now_s - due_s)
        if status != 200:
            self._note(f"revision {revision} answered {status}: {answer[:200]!r}")

    def _note(self, what: str) -> None:
        if len(self.tally.trouble) < 1000:
            self.tally.trouble.append(f"{time.monotonic():.3f} {what}")

    async def _ask(self) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self._connection()
        kept = False
        inputs = [{"name": "x", "datatype": "FP64", "shape": [1], "data": [self.value()]}]
        body = json.dumps({"inputs": inputs}).encode()
        try:
            head = f"POST {self._target} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            answer = await reader.readexactly(int(headers["content-length"]))
            kept = headers.get("connection", "") != "close"
            return int(lines[0].split()[1]), headers, answer
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # closed while idle, and we were told: no request is lost by it
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)
