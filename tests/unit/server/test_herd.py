"""The twins as the front sees them, over real channels: what came in pieces is kept, whether or not the last came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from intermodal_server.control import pair
from intermodal_server.front.health import Health
from intermodal_server.front.observe.instruments import PREDICTIONS
from intermodal_server.front.observe.merge import pack_entries
from intermodal_server.front.observe.ring import Entry, Ring
from intermodal_server.front.twins.channel import Channel
from intermodal_server.front.twins.herd import Herd
from intermodal_server.log import Log

PATIENCE_S = 60.0


class Alone:
    """What a herd needs of its front, with a real ring."""

    def __init__(self) -> None:
        self.ring = Ring(50, inputs=False)
        self.parts: list[int] = []
        server: Any = SimpleNamespace(divide=nothing, share=nothing, load=0, connections=())
        instruments: Any = SimpleNamespace(twins={}, divide_ring=self.parts.append, add_predictions=self.ring.add)
        self.herd = Herd(server, instruments, Health(), dict, Log("test", 2))

    def twin(self, pid: int, answer: Callable[[Channel, dict[str, Any]], None]) -> Channel:
        """Let one come, that answers as it is told."""
        ours, theirs = pair()
        channel = Channel(theirs, lambda message: answer(channel, message), nothing)
        self.herd.came(pid, ours.detach())
        return channel

    def ids(self) -> list[str]:
        page = json.loads(b"".join(self.ring.page("i", 0, 50)))
        return [one["request_id"] for one in page["predictions"]]


def nothing(*_: object) -> None:
    """Nobody is concerned."""


def some(*names: str) -> bytes:
    return pack_entries(0, [Entry(name, "live", float(name), 0, None, None) for name in names])


def test_pieces_of_a_twin_that_dies_meanwhile_are_kept_and_nobody_waits_for_the_rest() -> None:
    def dies(channel: Channel, message: dict[str, Any]) -> None:
        if message["kind"] == "tell":
            assert message["what"] == "predictions"
            channel.send("predictions", some("1", "4"))
            channel.send("predictions", some("6"))
            channel.close()

    def answers(channel: Channel, message: dict[str, Any]) -> None:
        if message["kind"] == "tell":
            channel.send("predictions", some("2"))
            channel.send("predictions", some("3", "5"))
            channel.send("predictions", ticket=message["ticket"])

    async def scenario() -> None:
        front = Alone()
        front.twin(11, dies)
        other = front.twin(12, answers)
        assert front.parts == [2, 2]
        asked = asyncio.ensure_future(front.herd.before_page(PREDICTIONS))
        await asyncio.wait_for(asked, PATIENCE_S)
        assert front.ids() == ["1", "2", "3", "4", "5", "6"]
        assert front.herd.gone(11)
        other.close()
        await asyncio.wait_for(front.herd.finished(), PATIENCE_S)
        assert front.parts[-1] == 1

    asyncio.run(scenario())
