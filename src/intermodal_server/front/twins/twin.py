"""A twin: the front once more, without listening sockets, ports and gRPC; its connections come from the front.

Takes what the front takes but for the listeners, hands its numbers and predictions to the front. The front is told over
the socket that the supervisor gives to both once the twin has loaded the model and compared golden cases.

Rules, in order:
1. What the probes say here is what they say at the front.
2. Numbers are told every `TELL_S` when there are any, when the front asks, and once more at the end.
3. Predictions are handed on when the front asks, and at the end, in pieces: requests are answered in between.
4. `leave`, and an end of the front: every answer is the last of its connection; clients that say nothing have
   `idle_s`; then the end.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from intermodal_server import contract, control
from intermodal_server.front import main
from intermodal_server.front.crowd import send_elsewhere
from intermodal_server.front.twins.channel import Channel
from intermodal_server.process import settle

TELL_S = 0.25
LOAD_S = 0.005  # changes within this time are told together
SAID_S = 2.0
STATISTICS_S = 2.0


def run(arguments: list[str]) -> int:
    """Serve until told to leave; the exit status."""
    return main.run(arguments, Twin)


class Twin(main.Front):
    """Everything of a twin that lives as long as its process."""

    async def serve(self, listeners: list[socket.socket]) -> None:
        """Serve the connections that the front gives, until told to leave."""
        del listeners
        self._build()
        self._channel: Channel | None = None
        self._taken = 0
        self._load_due = False
        self._ticket = 0
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._leaving = False
        self._service.statistics_of_all = self._statistics
        self._server.divide(self._processes)
        self._instruments.divide_ring(2 * max(1, self._processes - 1))  # the front has the other half
        self._server.on_change = self._tell_load_soon
        self._spawn(self._beat())
        self._spawn(self._start())
        await self._server.serve(sockets=[])
        await self._last_words()
        for task in self._tasks:
            task.cancel()

    async def _start(self) -> None:
        from intermodal_server.front.start import become_ready

        self._spawn(self._execution.start())
        reason = await become_ready(self._service, self._options.path(contract.GOLDEN_PATH), 1, self._log)
        if reason is None:
            settle()
            control.send(self._end, "ready")
        else:
            control.send(self._end, "unfit", reason=reason)

    # --- the front ----------------------------------------------------------------------------------------------------
    def _on_message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if message.get("kind") == "front" and descriptors:
            end = socket.socket(fileno=descriptors[0])
            self._channel = Channel(end, self._on_front, self._on_front_gone, self._on_connection)
            self._spawn(self._tell_home())

    def _on_connection(self, connection: socket.socket) -> None:
        self._taken += 1
        self._server.take(connection)
        self._tell_load_soon()

    def _on_front(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "tell" and message["what"] == "predictions":
            self._spawn(self._tell_predictions(int(message["ticket"])))
        elif kind == "tell":
            self._tell_numbers(int(message["ticket"]))
        elif kind == "health":
            health = self._health
            health.phase, health.detail = str(message["phase"]), str(message["detail"])
            health.draining, health.broken = bool(message["draining"]), str(message["broken"])
            health.retry_s = int(message["retry_s"])
            self._refuse_waiting()
        elif kind == "elsewhere":
            send_elsewhere(self._server.connections, int(message["count"]))
        elif kind == "leave":
            self._leave_once(float(message["idle_s"]))
        elif kind == "statistics":
            future = self._asked.pop(int(message["ticket"]), None)
            if future is not None and not future.done():
                future.set_result(message["document"])

    def _on_front_gone(self) -> None:
        self._leave_once(main.LEAVE_IDLE_S)

    def _leave_once(self, idle_s: float) -> None:
        if not self._leaving:
            self._leaving = True
            self._spawn(self._finish_connections(idle_s))

    # --- numbers ------------------------------------------------------------------------------------------------------
    def _tell_load_soon(self) -> None:
        if not self._load_due:
            self._load_due = True
            asyncio.get_running_loop().call_later(LOAD_S, self._tell_load)

    def _tell_load(self) -> None:
        self._load_due = False
        if self._channel is not None and self._channel.idle:
            self._channel.send("load", taken=self._taken, open=self._server.load)

    async def _tell_home(self) -> None:
        """Say that we are here, and what was counted, if anything was."""
        while True:
            self._tell_load()
            if self._channel is not None and self._channel.idle and self._instruments.changed:
                self._tell_numbers(0)
            await asyncio.sleep(TELL_S)

    def _tell_numbers(self, ticket: int) -> None:
        if self._channel is not None and self._channel.open:
            numbers = self._instruments.take()
            self._channel.send("numbers", ticket=ticket, inflight=self._instruments.inflight, numbers=numbers)

    async def _tell_predictions(self, ticket: int) -> None:
        channel = self._channel
        if channel is None:
            return
        left = self._instruments.predictions  # those that come meanwhile are for the next time
        while left > 0 and channel.open:
            count, packed = self._instruments.take_predictions(left)
            channel.send("predictions", packed)
            left = left - count if count else 0
            if not await self._said(channel):
                break
        channel.send("predictions", ticket=ticket)

    async def _said(self, channel: Channel) -> bool:
        """Whether the front has taken everything that was said, within `SAID_S`."""
        await asyncio.sleep(0)
        end_s = asyncio.get_running_loop().time() + SAID_S
        while not channel.idle and asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(0.001)
        return channel.idle

    async def _last_words(self) -> None:
        self._tell_numbers(0)
        await self._tell_predictions(0)
        await self._instruments.flush()
        self._tell_numbers(0)  # the spans that were sent
        if self._channel is not None:
            await self._said(self._channel)
            self._channel.close()

    async def _statistics(self) -> dict[str, Any]:
        """Those of all processes, from the front; our own when it does not say."""
        channel = self._channel
        if channel is not None and channel.open:
            self._ticket += 1
            future = self._asked[self._ticket] = asyncio.get_running_loop().create_future()
            channel.send("statistics", ticket=self._ticket)
            if (await asyncio.wait([future], timeout=STATISTICS_S))[0]:
                document: dict[str, Any] = future.result()
                return document
        return self._service.own_statistics()
