"""The server's front under fuzzing: a connection's bytes, and the bodies of its dialects, without any socket.

Takes bytes; says whether some request in them was answered by the model. The real connection and application work on a
transport in memory; h11, which is another reader of HTTP, looks at the same bytes.

What must hold for a connection, whatever comes:
1. What goes out is a sequence of whole answers, none of them 500; errors are `{"error": text}` and tell nothing inside.
2. A request that we begin to answer is, in method, target and body, the one that h11 sees at that place, as far as h11
   goes; so nobody can hide a request in another one behind a gateway.
3. After the client's end, and what clocks may still do, the connection is closed and nothing waits any more.

And for a body: it is refused with a 4xx, or its tensors hold what their shapes say and come back unchanged.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h11

from intermodal_server.contract import ModelSettings, ServeSettings, Signature, TensorSpec
from intermodal_server.front.app import App
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute.decide import Decision
from intermodal_server.front.head import Head
from intermodal_server.front.health import Health
from intermodal_server.front.http import HttpServer
from intermodal_server.front.limits import Disconnected, Refusal
from intermodal_server.front.protocol import Connection
from intermodal_server.front.service import Service
from intermodal_server.front.v2 import format_response, parse_request, select_outputs
from intermodal_server.log import Log
from intermodal_server.tensors import Tensor, decode, elements, without_nulls

INPUTS = (
    TensorSpec("x", "FP64", (-1, 2)), TensorSpec("s", "BYTES", (-1,)), TensorSpec("n", "INT32", (-1,)),
)  # fmt: skip
SETTINGS = ModelSettings(
    "m", "1", "predictor", "predictor", "", Signature(INPUTS, ()), call="named",
    serve=ServeSettings(max_request_bytes=1 << 16),
)  # fmt: skip
LIMIT_BYTES = SETTINGS.serve.max_request_bytes
SECRETS = re.compile(rb"Traceback|\.py\b|msgspec|orjson|httptools|object at 0x|line \d+, in")
ANSWER = re.compile(rb"HTTP/1\.1 (\d\d\d) [^\r\n]*\r\n((?:[a-z-]+: [^\r\n]*\r\n)*)\r\n")
LOG = Log("fuzz", os.open(os.devnull, os.O_WRONLY))
LOOP = asyncio.new_event_loop()  # before the watch begins, since it opens sockets for itself


class Echo:
    """An executor whose model gives its inputs back."""

    mode = "inline"
    workers = 1
    waiting = 0
    decision = Decision("inline", "", 1, "off: not needed")

    def __init__(self) -> None:
        self.asked = 0

    async def infer(self, _: Exchange, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs."""
        self.asked += 1
        return [Tensor(one.name, one.datatype, one.shape, bytes(one.data)) for one in inputs]


class Transport:
    """What a connection writes, kept; it can be read as fast as it is written."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.closing = self.reading_paused = self.half_closed = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        assert not self.half_closed, "written after its end"
        if not self.closing:
            self.out += data

    def writelines(self, parts: Sequence[bytes]) -> None:
        """Keep them."""
        self.write(b"".join(parts))

    def close(self) -> None:
        """Note it."""
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closing

    def can_write_eof(self) -> bool:
        """As sockets can."""
        return True

    def write_eof(self) -> None:
        """Note it."""
        self.half_closed = True

    def pause_reading(self) -> None:
        """Note it."""
        self.reading_paused = True

    def resume_reading(self) -> None:
        """Note it."""
        self.reading_paused = False

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def get_extra_info(self, _: str) -> None:
        """There is no socket."""


@dataclass
class Begun:
    """A request that we began to answer."""

    method: str
    path: str
    size: int | None = None  # of its body, when somebody wanted it


class Watched(App):
    """The application, and a list of what it began to answer."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, LOG)
        self.begun: list[Begun] = []

    async def answer(self, exchange: Exchange) -> Any:
        """Note the request, then answer it."""
        begun = Begun(exchange.method, exchange.path)
        self.begun.append(begun)
        receive = exchange.receive

        async def noted(limit: int, grace_s: float) -> Any:
            body = await receive(limit, grace_s)
            begun.size = len(body)
            return body

        exchange.receive = noted
        return await super().answer(exchange)


async def _service() -> tuple[Echo, Watched, HttpServer]:
    echo = Echo()
    service = Service(SETTINGS, echo, Health(phase="ready", workers=1), slow_body_s=5.0, log=LOG)  # type: ignore[arg-type]
    app = Watched(service)
    return echo, app, HttpServer(app, slow_header_s=5.0, max_connections=10)


ECHO, APP, SERVER = LOOP.run_until_complete(_service())


def read_connection(data: bytes, _: Path) -> bool:
    """Whether the model answered anything that came in `data` on one connection; the first byte says how it is cut."""
    cut, data = (data[0] if data else 0), data[1:]
    APP.begun.clear()
    before = ECHO.asked
    out, connection = LOOP.run_until_complete(_converse(data, cut))
    answers = _answers(out)
    assert connection not in SERVER.connections and SERVER._held_bytes == 0
    assert len(answers) <= len(APP.begun) + 1, "more answers than requests"
    _compare(data, answers)
    return ECHO.asked > before


async def _converse(data: bytes, cut: int) -> tuple[bytes, Connection]:
    transport, connection = Transport(), Connection(SERVER)
    connection.connection_made(transport)
    size = len(data) if cut < 128 else max(1, len(data) // (1 + cut % 7))
    for start in range(0, len(data), size or 1):
        for _ in range(50):
            if not transport.reading_paused:
                break
            await asyncio.sleep(0)
        if transport.closing:
            break
        connection.data_received(data[start : start + size])
        await asyncio.sleep(0)
    if not transport.closing and not connection.eof_received():
        transport.close()
    for _ in range(2000):
        if transport.closing:
            break
        await asyncio.sleep(0)
    assert transport.closing, "the connection never ends"
    connection.connection_lost(None)
    for _ in range(20):
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"{len(left)} tasks are left"
    return bytes(transport.out), connection


def _answers(out: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every answer; anything else in the stream is an error."""
    found = []
    while out:
        match = ANSWER.match(out)
        assert match is not None, out[:200]
        fields = dict(line.split(b": ", 1) for line in match[2].split(b"\r\n") if line)
        status = int(match[1])
        out = out[match.end() :]
        if status == 100:
            continue
        assert status < 500 or status in (501, 505), (status, out[:300])
        head = len(found) < len(APP.begun) and APP.begun[len(found)].method == "HEAD"
        size = 0 if head else int(fields[b"content-length"])
        body, out = out[:size], out[size:]
        assert len(body) == size
        if status >= 400 and not head:
            error = json.loads(body)
            assert set(error) == {"error"} and len(body) < 2000 and not SECRETS.search(body), body
        assert fields.get(b"connection", b"close") == b"close", fields
        found.append((status, body))
    return found


def _compare(data: bytes, answers: list[tuple[int, bytes]]) -> None:
    """What h11 makes of the same bytes must be what we answered, request by request."""
    theirs = _theirs(data)
    for number, ours in enumerate(APP.begun[: len(answers)]):
        if number >= len(theirs):
            return
        method, target, size = theirs[number]
        assert ours.method == method, f"request {number} is a {ours.method}, h11 sees a {method}"
        if target.startswith("/"):
            path = unquote(target.partition("#")[0].partition("?")[0])
            assert ours.path == path, f"request {number} is for {ours.path}, h11 sees {path}"
        if ours.size is not None and size is not None:
            assert ours.size == size, f"request {number} has {ours.size} bytes, h11 sees {size}"


def _theirs(data: bytes) -> list[tuple[str, str, int | None]]:
    """Method, target and length of body of every request, until h11 understands no more."""
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
    found: list[tuple[str, str, int | None]] = []
    try:
        peer.receive_data(data)
        while True:
            event = peer.next_event()
            if isinstance(event, h11.Request):
                found.append((event.method.decode(), event.target.decode("latin-1"), None))
                size = 0
            elif isinstance(event, h11.Data):
                size += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found[-1] = (*found[-1][:2], size)
            elif event is h11.PAUSED:
                if peer.their_state is not h11.DONE:  # an upgrade or a tunnel: h11 stops where we go on
                    return found
                peer.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                peer.send(h11.EndOfMessage())
                if peer.our_state is not h11.DONE:
                    return found
                peer.start_next_cycle()
            else:
                return found
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return found


def read_body(data: bytes, __: Path) -> bool:
    """Whether a body is taken by V2 (its binary part by the number before the first line feed) or another dialect."""
    name, _, body = data.partition(b"\n")
    if name.startswith(b"/"):
        return _dialect(name.decode("latin-1"), body)
    length = name.decode("latin-1") if name else None
    try:
        request = parse_request(body, length)
    except Refusal as refusal:
        _refused(refusal)
        return False
    for tensor in request.inputs:
        assert len(decode(tensor.data, tensor.datatype, tensor.name)) == elements(tensor.shape)
    try:
        selected = select_outputs(request, request.inputs)
        again = [(tensor, True) for tensor, _ in selected]
        headers, answer = format_response(SETTINGS, request.id, again)
        _, plain = format_response(SETTINGS, request.id, [(tensor, False) for tensor, _ in selected])
    except Refusal as refusal:
        _refused(refusal)
        return False
    json.loads(plain)
    fields = dict(headers)
    size = fields.get(b"inference-header-content-length")
    document = json.loads(answer[: int(size)] if size else answer)
    document["inputs"] = document.pop("outputs")
    head = json.dumps(document).encode()
    back = parse_request(head + (answer[int(size) :] if size else b""), str(len(head)) if size else None)
    assert [(one.name, one.shape, bytes(one.data)) for one in back.inputs] == [
        (one.name, one.shape, bytes(without_nulls(one))) for one, _ in again
    ]
    return True


def _refused(refusal: Refusal) -> None:
    assert 400 <= refusal.status < 500, refusal.status
    assert len(refusal.message) <= 400 and not SECRETS.search(refusal.message.encode("utf-8", "replace"))


def _dialect(path: str, body: bytes) -> bool:
    """Whether a POST to `path` is answered by the model; a content type may stand behind a space."""

    async def receive(limit: int, _: float) -> bytes:
        if len(body) > limit:
            raise Refusal(413, "too large")
        return body

    target, _, kind = path.partition(" ")
    headers = {b"content-type": kind} if kind else {}
    before = ECHO.asked
    try:
        status, fields, answer = LOOP.run_until_complete(APP.answer(Exchange(Head("POST", target, headers), receive)))
    except Disconnected:
        return False
    assert status < 500, (status, answer[:300])
    if status >= 400:
        assert not SECRETS.search(answer) and len(answer) < 2000, answer[:300]
    elif (b"content-type", b"application/json") in fields:
        json.loads(answer)
    return ECHO.asked > before
