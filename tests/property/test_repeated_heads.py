"""However the bytes of a connection are cut, and whatever came before: the same requests, the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.http import make_server
from intermodal_server.front.limits import Refusal
from intermodal_server.front.reading import MAX_KNOWN_BYTES, Reader

POST = b"POST /%b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b"
BODIES = st.sampled_from([b"abcd", b"wxyz", b"\r\n\r\n", b"", b"GET ", b"a\r\n\r\nb", b"POST / HTTP/1.1\r\n\r\n"])
REQUESTS = st.one_of(
    st.tuples(st.sampled_from([b"a", b"b"]), BODIES).map(lambda drawn: POST % (drawn[0], len(drawn[1]), drawn[1])),
    st.sampled_from(
        [
            b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
            b"\r\n\r\n" + POST % (b"a", 4, b"abcd"),
            POST % (b"a", 4, b"abcd") + b"\r\n",
            b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nX: y\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: h\r\nX: " + b"x" * MAX_KNOWN_BYTES + b"\r\nContent-Length: 4\r\n\r\nabcd",
        ]
    ),
)


class _Echo:
    """Answers with what it understood."""

    async def answer(self, exchange: Exchange) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        try:
            body = await exchange.receive(1 << 20, 10.0)
        except Refusal as refusal:
            return refusal.status, [], refusal.message.encode()
        told = (exchange.method, exchange.path, sorted(exchange.headers.items()), exchange.traffic, bytes(body))
        return 200, [], repr(told).encode()


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.written += b"".join(parts)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def _answers(pieces: Sequence[bytes], *, settle: bool = True) -> bytes:
    """What a connection writes when it is sent these pieces, without what differs by time and number."""

    async def run() -> bytes:
        server = make_server(_Echo(), slow_header_s=60)
        connection, transport = server._connection(), _Transport()
        connection.connection_made(transport)
        for piece in pieces:
            if not transport.closing:
                connection.data_received(piece)
            for _ in range(4 if settle else 0):
                await asyncio.sleep(0)
        for _ in range(8 * (len(pieces) + b"".join(pieces).count(b"HTTP/1."))):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return transport.written

    lines = asyncio.run(run()).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith((b"date:", b"x-request-id:")))


@settings(max_examples=250, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=6), st.lists(st.integers(1, 400), max_size=6), st.booleans())
def test_however_a_connection_is_cut_it_is_answered_alike(
    requests: list[bytes], sizes: list[int], settle: bool
) -> None:
    stream = b"".join(requests)
    byte_by_byte = _answers([stream[place : place + 1] for place in range(len(stream))])
    assert _answers(requests) == byte_by_byte
    pieces, place = [], 0
    for size in sizes:
        pieces.append(stream[place : place + size])
        place += size
    assert _answers([piece for piece in (*pieces, stream[place:]) if piece], settle=settle) == byte_by_byte


class _Told:
    """Who listens to a reader."""

    def __getattr__(self, name: str) -> Any:
        return (lambda request, piece: request.add(piece)) if name == "grew" else self._end if name == "ended" else _no

    @staticmethod
    def _end(request: Any) -> None:
        request.end()


def _no(*_: Any) -> None:
    """Whatever it is."""


def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    reader = Reader(_Told())  # type: ignore[arg-type]
    first, second = POST % (b"a", 4, b"abcd"), POST % (b"a", 4, b"wxyz")
    assert reader.again(first) is None
    reader.feed(first)
    request = reader.again(second)
    assert request is not None and (request.body, request.whole, request.head.path) == (b"wxyz", True, "/a")
    assert reader.again(second[:-1]) is None, "not whole"
    assert reader.again(POST % (b"b", 4, b"abcd")) is None
    reader.feed(first[:20])
    assert reader.again(second) is None, "another one is on its way"


@pytest.mark.parametrize(
    "pieces",
    [
        [(POST % (b"a", 4, b"abcd"))[:20], (POST % (b"a", 4, b"abcd"))[20:]],
        [b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\n\r\nabcd"],
        [b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"],
        [POST % (b"a", 4, b"abcd") + b"\r\n"],
        [b"\r\n" + POST % (b"a", 4, b"abcd")],
    ],
    ids=["in two pieces", "the last", "chunked", "and more", "after an empty line"],
)
def test_only_a_head_that_came_whole_is_remembered(pieces: list[bytes]) -> None:
    reader = Reader(_Told())  # type: ignore[arg-type]
    for piece in pieces:
        reader.feed(piece)
    assert reader.last is not None and reader.last.whole
    again = reader.again(pieces[-1])
    assert again is None or pieces[-1].startswith(b"\r\n"), "an empty line belongs to it"


def test_thousands_of_requests_in_one_piece_are_answered_in_order() -> None:
    stream = b"".join(POST % (b"a", 4, b"%04d" % number) for number in range(3000))
    answers = _answers([stream])
    assert answers.count(b"HTTP/1.1 200 OK") == 3000
    places = [answers.index(b"b'%04d'" % number) for number in range(0, 3000, 500)]
    assert places == sorted(places)
