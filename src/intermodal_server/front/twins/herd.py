"""The twins as the front sees them: who gets which connection, what they have counted, their end.

Takes one end of a socket for each twin from the supervisor, hands on whether a new connection was given away; adds the
twins' numbers to the front's own, and their predictions to its ring.

Rules, in order:
1. A new connection goes to the process with the fewest open ones; where two have as few, to the front. One that leaves
   or has not been heard for `UNHEARD_S` gets none.
2. When a twin comes, connections that the others have beyond their share end with their next answer (`Connection:
   close`), so that those of a gateway, which stay for hours, are shared, too.
3. A twin tells how many it has taken and has open; those that are on their way count as open.
4. Before numbers are shown, every twin that is heard is asked for its own and waited for, `ASK_S` at most. Besides it
   tells them by itself, so that one that dies takes little with it.
5. Before the ring is read, every twin that is heard is asked for its predictions, and waited for as long. They come in
   pieces, and are kept when all of them are there, be that later.
6. A drain ends when the last twin has said its numbers and gone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, Callable

from intermodal_server.front.crowd import send_elsewhere
from intermodal_server.front.health import Health
from intermodal_server.front.http import HttpServer
from intermodal_server.front.observe.instruments import PREDICTIONS, Instruments
from intermodal_server.front.observe.merge import unpack_entries
from intermodal_server.front.observe.ring import Entry
from intermodal_server.front.twins.channel import Channel
from intermodal_server.log import Log

UNHEARD_S = 1.0
ASK_S = 1.0


class Known:
    """One twin."""

    def __init__(self, pid: int, now_s: float) -> None:
        self.pid = pid
        self.given = 0  # connections
        self.taken = 0
        self.open = 0
        self.heard_s = now_s
        self.lost = 0  # predictions that it could not keep
        self.predictions: list[Entry] = []  # more of them are coming
        self.leaving = False
        self.asked: dict[int, asyncio.Future[None]] = {}
        self.channel: Channel

    @property
    def load(self) -> int:
        """Connections that it has or will have in a moment."""
        return self.open + self.given - self.taken


class Herd:
    """All twins of this front."""

    def __init__(
        self,
        server: HttpServer,
        instruments: Instruments,
        health: Health,
        statistics: Callable[[], dict[str, Any]],
        log: Log,
    ) -> None:
        self._server = server
        self._instruments = instruments
        self._health = health
        self._statistics = statistics
        self._log = log
        self._twins: dict[int, Known] = {}
        self._gone: set[int] = set()  # process ids of those whose end the supervisor has not told yet
        self._leave_idle_s: float | None = None  # told to go
        self._ticket = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # --- who is there -------------------------------------------------------------------------------------------------
    def came(self, pid: int, descriptor: int) -> None:
        """The supervisor hands over a twin that can answer."""
        twin = Known(pid, self._now_s())
        twin.channel = Channel(
            socket.socket(fileno=descriptor), lambda message: self._on_message(twin, message), lambda: self._ended(twin)
        )
        self._twins[pid] = twin
        self._instruments.twins[pid] = 0
        self._divide()
        self.tell_health()
        if self._leave_idle_s is not None:
            self._let_go(twin, self._leave_idle_s)
        else:
            self._server.share(self.give)
            self._share_anew()
            self._log.info("another process answers, too", pid=pid, processes=1 + len(self._twins))

    def _share_anew(self) -> None:
        processes = 1 + len(self._twins)
        total = self._server.load + sum(twin.load for twin in self._twins.values())
        share = -(-total // processes)
        send_elsewhere(self._server.connections, self._server.load - share)
        for twin in self._twins.values():
            if twin.load > share:
                twin.channel.send("elsewhere", count=twin.load - share)

    def gone(self, pid: int) -> bool:
        """The supervisor has buried it; whether it had come."""
        known = pid in self._twins or pid in self._gone
        self._gone.discard(pid)
        return known

    def _ended(self, twin: Known) -> None:
        self._twins.pop(twin.pid, None)
        self._gone.add(twin.pid)
        self._instruments.twins.pop(twin.pid, None)
        self._keep_predictions(twin)
        self._divide()
        for future in twin.asked.values():
            _done(future)

    def _divide(self) -> None:
        self._server.divide(1 + len(self._twins))
        self._instruments.divide_ring(2 if self._twins else 1)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _heard(self) -> Iterator[Known]:
        least_s = self._now_s() - UNHEARD_S
        return (twin for twin in self._twins.values() if twin.heard_s >= least_s)

    # --- connections --------------------------------------------------------------------------------------------------
    def give(self, connection: socket.socket) -> bool:
        """Give a new connection to a twin; False when it is for the front."""
        chosen, least = None, self._server.load
        for twin in self._heard():
            if twin.load < least and not twin.leaving:
                chosen, least = twin, twin.load
        if chosen is None or not chosen.channel.give(connection):
            return False
        chosen.given += 1
        return True

    # --- messages -----------------------------------------------------------------------------------------------------
    def _on_message(self, twin: Known, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        twin.heard_s = self._now_s()
        if kind == "load":
            twin.taken, twin.open = int(message["taken"]), int(message["open"])
        elif kind == "numbers":
            self._instruments.twins[twin.pid] = int(message["inflight"])
            self._instruments.add(message["numbers"])
            _done(twin.asked.pop(int(message["ticket"]), None))
        elif kind == "predictions":
            if "rest" in message:
                lost, predictions = unpack_entries(message["rest"])
                twin.lost += lost
                twin.predictions += predictions
            else:
                self._keep_predictions(twin)
                _done(twin.asked.pop(int(message["ticket"]), None))
        elif kind == "statistics":
            task = asyncio.get_running_loop().create_task(self._tell_statistics(twin, int(message["ticket"])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell_statistics(self, twin: Known, ticket: int) -> None:
        await self.gather()
        twin.channel.send("statistics", ticket=ticket, document=self._statistics())

    def _keep_predictions(self, twin: Known) -> None:
        if twin.lost or twin.predictions:
            self._instruments.add_predictions(twin.lost, twin.predictions)
            twin.lost, twin.predictions = 0, []

    async def before_page(self, path: str) -> None:
        """Return when every twin that is heard has told what the page at this path shows."""
        await self._ask("predictions" if path == PREDICTIONS else "numbers")

    async def gather(self) -> None:
        """Return when every twin that is heard has told its numbers of now."""
        await self._ask("numbers")

    async def _ask(self, what: str) -> None:
        if not self._twins:
            return
        self._ticket += 1
        futures = []
        for twin in self._heard():
            future = twin.asked[self._ticket] = asyncio.get_running_loop().create_future()
            twin.channel.send("tell", what=what, ticket=self._ticket)
            futures.append(future)
        if futures:
            await asyncio.wait(futures, timeout=ASK_S)

    async def statistics(self) -> dict[str, Any]:
        """Triton's statistics, of all processes."""
        await self.gather()
        return self._statistics()

    # --- what they are told -------------------------------------------------------------------------------------------
    def tell_health(self) -> None:
        """Have them refuse and report what the front does."""
        health = self._health
        about: dict[str, Any] = {"draining": health.draining, "broken": health.broken, "retry_s": health.retry_s}
        for twin in self._twins.values():
            twin.channel.send("health", phase=health.phase, detail=health.detail, **about)

    def _let_go(self, twin: Known, idle_s: float) -> None:
        if not twin.leaving:
            twin.leaving = True
            twin.channel.send("leave", idle_s=idle_s)

    def release(self, pid: int, idle_s: float) -> None:
        """Let one finish what it has, and go."""
        twin = self._twins.get(pid)
        if twin is not None:
            self._let_go(twin, idle_s)

    def leave(self, idle_s: float) -> None:
        """Let all of them finish what they have, and go; whose clients say nothing for so long have nothing."""
        self._leave_idle_s = idle_s
        for twin in self._twins.values():
            self._let_go(twin, idle_s)

    async def finished(self) -> None:
        """Return when all have gone."""
        while self._twins:
            await asyncio.sleep(0.02)


def _done(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
