"""The ring over several processes: whoever goes on from a number sees everything once, and knows what is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe import ring as module
from intermodal_server.front.observe.merge import pack_entries, unpack_entries
from intermodal_server.front.observe.ring import Ring
from intermodal_server.tensors import Tensor

MOST = 12
TOTAL_BYTES = 600


class Processes:
    """A front and two twins; the clock ticks with every answer."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.rings = [Ring(MOST, inputs=False, now=lambda: self.clock) for _ in range(3)]
        for ring, parts in zip(self.rings, (2, 4, 4), strict=True):
            ring.divide(parts)
        self.answered = 0

    def answer(self, who: int, size: int) -> None:
        self.clock += 1
        self.answered += 1
        exchange = Exchange.own("live")
        exchange.request_id = str(self.answered)
        exchange.outputs = [Tensor("y", "UINT8", (size,), bytes(size))]
        self.rings[who].ended(exchange, 200)

    def hand_on(self, who: int) -> None:
        """All that a twin has, in pieces, as one."""
        lost, entries, ring = 0, [], self.rings[who]
        while True:
            more, taken = ring.take(3, 100)
            packed = pack_entries(more, taken)
            assert unpack_entries(packed) == (more, taken)
            lost, entries = lost + more, entries + taken
            if not taken:
                break
        self.rings[0].add(lost, entries)

    def pages(self, after: int) -> Iterator[dict[str, Any]]:
        while True:
            page = json.loads(b"".join(self.rings[0].page("i", after, 4)))
            yield page
            if page["next"] == after:
                return
            after = page["next"]


STEPS = st.one_of(
    st.tuples(st.just("answer"), st.integers(0, 2), st.sampled_from([1, 60, 100, 100, 101])),
    st.tuples(st.just("hand on"), st.integers(1, 2), st.just(0)),
    st.tuples(st.just("read"), st.just(0), st.just(0)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(STEPS, min_size=40, max_size=80))
def test_every_prediction_is_read_once_or_counted_as_lost(steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_BYTES", TOTAL_BYTES)
        patch.setattr(module, "MAX_ENTRY_BYTES", 100)
        all_of_them, after, lost = Processes(), 0, 0
        seen: list[str] = []

        def read() -> None:
            nonlocal after, lost
            for page in all_of_them.pages(after):
                lost += max(0, page["first"] - after - 1)
                numbers = [entry["number"] for entry in page["predictions"]]
                assert numbers == list(range(max(after + 1, page["first"]), page["next"] + 1))
                seen.extend(entry["request_id"] for entry in page["predictions"])
                after = page["next"]
            assert after == page["last"]

        for what, who, size in [*steps, ("hand on", 1, 0), ("hand on", 2, 0), ("read", 0, 0)]:
            if what == "answer":
                all_of_them.answer(who, size)
            elif what == "hand on":
                all_of_them.hand_on(who)
            else:
                read()
            held = sum(ring._bytes for ring in all_of_them.rings)
            assert held <= TOTAL_BYTES
            assert all(len(ring._numbered) + len(ring._waiting) <= MOST for ring in all_of_them.rings)
        assert len(seen) == len(set(seen))
        assert len(seen) + lost == all_of_them.answered


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
def test_what_is_read_are_the_newest_of_all_in_order_of_time(answers: list[tuple[int, bool]]) -> None:
    processes = Processes()
    for who, reads in answers:
        processes.answer(who, 1)
        if reads:
            processes.hand_on(1)
            processes.hand_on(2)
            found = [entry["request_id"] for page in processes.pages(0) for entry in page["predictions"]]
            newest = range(max(1, processes.answered - MOST + 1), processes.answered + 1)
            assert found == [str(number) for number in newest]


def test_entries_arrive_as_they_were_sent() -> None:
    ring = Ring(9, inputs=True, now=lambda: 1700000000.1234567)
    for outputs, inputs in (
        ([Tensor("ü\n", "BYTES", (1, 1), b"\x02\0\0\0\n\xff")], [Tensor("x", "FP64", (1,), b"12345678")]),
        ([Tensor("y", "UINT8", (2,), b"\n{")], []),
        ([Tensor("big", "UINT8", (module.MAX_ENTRY_BYTES + 1,), bytes(module.MAX_ENTRY_BYTES + 1))], []),
    ):
        exchange = Exchange.own("mirror")
        exchange.outputs, exchange.inputs = outputs, inputs
        ring.ended(exchange, 200)
    _, entries = ring.take(9, 1 << 20)
    assert [len(entry.outputs or ()) for entry in entries] == [1, 1, 0]
    assert unpack_entries(pack_entries(7, entries)) == (7, entries)
