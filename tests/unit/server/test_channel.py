"""The socket between a front and its twin: order, length, connections, and the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from intermodal_server.control import pair
from intermodal_server.front.twins.channel import PIECE_BYTES, Channel

PATIENCE_S = 60.0


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), PATIENCE_S)


def test_messages_of_any_length_and_connections_arrive_in_order() -> None:
    async def scenario() -> None:
        ours, theirs = pair()
        came: list[Any] = []
        ends: list[str] = []
        sender = Channel(ours, came.append, lambda: ends.append("sender"))
        receiver = Channel(theirs, came.append, lambda: ends.append("receiver"), came.append)
        left, right = socket.socketpair()
        text = "ü" * (5 * PIECE_BYTES)
        sender.send("long", text=text)
        await until(lambda: sender.idle)
        assert sender.give(left)
        sender.send("short", text="")
        await until(lambda: len(came) == 3)
        assert [each["text"] if isinstance(each, dict) else each.type for each in came] == [
            text,
            socket.SOCK_STREAM,
            "",
        ]
        left.close()
        came[1].sendall(b"hello")
        assert right.recv(5) == b"hello"
        right.close()
        came[1].close()
        sender.send("with bytes", text.encode() + b"\n{}\n", number=1)
        sender.send("last")
        await until(lambda: sender.idle)
        sender.close()
        await until(lambda: ends)
        assert came[-2] == {"kind": "with bytes", "number": 1, "rest": text.encode() + b"\n{}\n"}
        assert came[-1] == {"kind": "last"}  # what was said before the end is heard
        assert ends == ["receiver"]
        assert not receiver.open and not receiver.give(right)
        receiver.send("nobody listens")

    asyncio.run(scenario())


def test_who_does_not_read_gets_no_connections_and_all_messages_later() -> None:
    async def scenario() -> None:
        ours, theirs = pair()
        sender = Channel(ours, print, print)
        left, right = socket.socketpair()
        given = 0
        while sender.give(left):
            given += 1
            assert given < 100_000
        for number in range(50):
            sender.send("numbers", number=number, text="x" * PIECE_BYTES)
        assert not sender.idle and not sender.give(left)
        came: list[Any] = []
        connections: list[socket.socket] = []
        receiver = Channel(theirs, came.append, print, connections.append)
        await until(lambda: len(came) == 50)
        assert [each["number"] for each in came] == list(range(50))
        assert len(connections) == given
        for each in (*connections, left, right):
            each.close()
        sender.close()
        receiver.close()

    asyncio.run(scenario())
