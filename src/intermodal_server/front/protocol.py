"""One HTTP/1.1 connection: bytes in, requests to the application, answers out in order.

Takes bytes from the event loop, hands requests to `Application.answer`. httptools (llhttp) reads the protocol; this
module keeps the order, the limits and the clock. What is refused here has not reached the application; the answer is
the same JSON as everywhere.

Rules, in order:
1. One request of a connection is answered at a time; those sent ahead wait, and reading pauses while they do.
2. A head has `slow_header_s` to arrive, 64 KiB and 128 fields; bytes without any effect (an endless field, chunk
   extensions) count like a head. Heads without end are 408, large ones 431.
3. A client that does not read gets no further answers, and is cut off at the same pace as one that sends too slowly.
4. Nothing is offered by `Upgrade`: such a request is read as an ordinary one, its body by its length.
5. After what cannot be understood nothing more is read; what came before it is still answered.
6. One timer a connection: it looks at the state when it fires, and is moved only when something is due earlier.
"""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httptools

from intermodal_server.front import limits
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.incoming import Incoming
from intermodal_server.front.limits import Disconnected

if TYPE_CHECKING:
    from intermodal_server.front.http import HttpServer

LINGER_S = 2.0  # for a client that still sends to read why nobody listens
CLOSE = (b"connection", b"close")
Headers = Sequence[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """From accept to close."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = server.loop
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._since_s = self._loop.time()  # when what is awaited now began
        self._requests = 0
        self._reading = True
        self._writable = True
        self._ended = False  # nothing that arrives matters any more
        self._refusal: tuple[int, str] | None = None
        # the request whose head or body arrives now
        self._url = b""
        self._headers: dict[bytes, str] = {}
        self._header_bytes = self._header_count = 0
        self._idle_bytes = 0  # received without any effect
        self._progress = False
        self._in_head = False
        self._incoming: Incoming | None = None
        self._raw_bytes = 0  # of a body that the parser does not read: that of a request with Upgrade
        # the request that is answered now, and those after it
        self._active: Incoming | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Incoming] = deque()

    # --- the event loop's calls ---------------------------------------------------------------------------------------
    def connection_made(self, transport: Any) -> None:
        """Begin, unless there are too many."""
        self._transport = transport
        connections = self._server.connections
        connections.add(self)
        if len(connections) > limits.MAX_CONNECTIONS:
            self._refuse(503, "too many connections")
        else:
            self._arm(self._since_s + self._server.slow_header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever works for this client."""
        self._server.connections.discard(self)
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._active is not None and not self._active.answered:
            self._active.lost()
            if self._task is not None and self._active.whole:
                self._task.cancel()
        self._waiting.clear()
        self._parser = None

    def eof_received(self) -> bool:
        """The client has said all it wanted; what was asked is answered before the connection closes."""
        if self._active is None or self._active.answered or not self._active.whole:
            return False
        self._ended = True
        self._waiting = deque(request for request in self._waiting if request.whole)
        (self._waiting[-1] if self._waiting else self._active).keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Feed the parser; begin with what has become a request."""
        if self._ended:
            return
        self._progress = False
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(*(self._refusal or (400, "this is not an HTTP request")))
            return
        if self._waiting:
            self._proceed()
            if len(self._waiting) > 1 or not self._writable:
                self._pause()
        if self._progress:
            self._idle_bytes = 0
        else:
            self._idle_bytes += len(data)
            if self._idle_bytes > limits.MAX_HEADER_BYTES:
                self._refuse(431 if self._in_head else 400, "the request headers are too large")
                return
        if self._in_head and self._active is None:
            self._arm(self._since_s + self._server.slow_header_s)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        self._writable = False
        self._since_s = self._loop.time()
        self._arm(self._write_due_s())

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable = True
        self._since_s = self._loop.time()
        self._proceed()

    # --- the parser's calls -------------------------------------------------------------------------------------------
    def _feed(self, data: bytes) -> None:
        while True:
            if self._raw_bytes:
                piece, data = data[: self._raw_bytes], data[self._raw_bytes :]
                self._raw_bytes -= len(piece)
                self.on_body(piece)
                if not self._raw_bytes:
                    self._end_of_message()
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._decline_upgrade()

    def _decline_upgrade(self) -> None:
        """The parser has left the body, if there is one, to us."""
        request = self._incoming
        assert request is not None
        length = request.headers.get(b"content-length", "0")
        if b"transfer-encoding" in request.headers or not (length.isascii() and length.isdigit() and len(length) < 20):
            self._refusal = (400, "a chunked body and Upgrade do not go together")
            raise httptools.HttpParserError
        if request.method == "CONNECT":
            request.keep_alive = False
        self._raw_bytes = int(length)
        if not self._raw_bytes:
            self._end_of_message()

    def on_message_begin(self) -> None:
        """A request begins: from here its head is timed."""
        self._url = b""
        self._headers = {}
        self._header_bytes = self._header_count = 0
        self._in_head = True
        if self._active is None:
            self._since_s = self._loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of the target, often the whole."""
        self._url += url
        self._header_bytes += len(url)
        if self._header_bytes > limits.MAX_HEADER_BYTES:
            self._too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of the trailer, which nobody reads."""
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > limits.MAX_HEADER_BYTES or self._header_count > limits.MAX_HEADERS:
            self._too_large()
        if self._in_head:
            self._headers.setdefault(name.lower(), value.decode("latin-1"))

    def _too_large(self) -> None:
        self._refusal = (431, "the request headers are too large")
        raise ValueError("headers too large")

    def on_headers_complete(self) -> None:
        """The application may begin."""
        self._progress, self._in_head = True, False
        self._requests += 1
        parser, headers = self._parser, self._headers
        keep_alive = parser.should_keep_alive() and self._requests < limits.MAX_REQUESTS_PER_CONNECTION
        request = Incoming(parser.get_method().decode("ascii"), _path(self._url), headers, keep_alive, self)
        if b"expect" in headers:
            request.expects = headers[b"expect"].lower() == "100-continue"
        self._incoming = request
        self._waiting.append(request)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._progress = True
        request = self._incoming
        if request is not None and not request.add(body):
            self._pause()

    def on_message_complete(self) -> None:
        """The request is whole, unless its body was left to us."""
        self._progress = True
        if not self._parser.should_upgrade():
            self._end_of_message()

    def _end_of_message(self) -> None:
        request = self._incoming
        assert request is not None
        request.end()
        if request is self._active and request.answered:
            self._next()

    # --- one request after the other ----------------------------------------------------------------------------------
    def _begin(self) -> None:
        self._active = request = self._waiting.popleft()
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Incoming) -> None:
        exchange = Exchange(request.method, request.path, request.headers, request.receive)
        try:
            status, headers, body = await self._server.app.answer(exchange)
            self._write(request, status, headers, body)
        except Disconnected:
            self._transport.abort()
        except Exception:  # not even an error could be told; the loop's handler logs it
            self._transport.abort()
            raise

    def _write(self, request: Incoming, status: int, headers: Headers, body: bytes) -> None:
        if self._transport.is_closing():
            return
        if CLOSE in headers or self._server.closing or not (request.whole or request.skippable()):
            request.keep_alive = False
        head = self._server.head(status, headers, len(body), request.keep_alive)
        if len(body) <= limits.MAX_HEADER_BYTES:
            self._transport.write(head + body if request.method != "HEAD" else head)
        else:
            self._transport.writelines([head, body] if request.method != "HEAD" else [head])
        request.answered = True
        request.body = b""
        if request.whole or not request.keep_alive:
            self._next()

    def _next(self) -> None:
        """After an answer: end, or begin with the next request, or wait for one."""
        request, self._active, self._task = self._active, None, None
        self._since_s = self._loop.time()
        if request is not None and not request.keep_alive:
            self._end(linger=not request.whole)
        else:
            self._proceed()

    def _proceed(self) -> None:
        """Do what is next, when it can be done now."""
        if self._active is not None or not self._writable:
            return
        if self._waiting:
            self._begin()
        elif self._refusal is not None:
            self._answer_refusal(*self._refusal)
        elif not self._ended:
            self._resume()

    def want_body(self) -> None:
        """Somebody waits for the rest of the active request's body."""
        request = self._active
        if request is None or self._transport.is_closing():
            return
        if request.expects:
            request.expects = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume()
        self._arm(request.due_s())

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # --- the end ------------------------------------------------------------------------------------------------------
    def _refuse(self, status: int, message: str) -> None:
        """Answer what never became a request, after everything that did; then close."""
        self._refusal = (status, message)
        self._ended = True
        if self._incoming is not None and not self._incoming.whole:
            self._incoming.spoil(limits.Refusal(status, message, close=True))
        self._proceed()

    def _answer_refusal(self, status: int, message: str) -> None:
        if self._transport.is_closing():
            return
        body = json.dumps({"error": message}).encode()
        head = self._server.head(status, [(b"content-type", b"application/json")], len(body), False)
        self._transport.write(head + body)
        self._end(linger=True)

    def _end(self, *, linger: bool) -> None:
        """Close; while the client still sends, only our half, so that it can read the answer."""
        self._ended = True
        self._waiting.clear()
        if not linger or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._resume()
        self._transport.write_eof()
        self._since_s = self._loop.time()
        self._arm(self._since_s + LINGER_S)

    def finish(self) -> None:
        """Close as soon as what was asked is answered."""
        if self._active is None and not self._waiting:
            self._end(linger=False)
        for request in (self._active, *self._waiting):
            if request is not None:
                request.keep_alive = False

    # --- the clock ----------------------------------------------------------------------------------------------------
    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._look)

    def _write_due_s(self) -> float:
        size = self._transport.get_write_buffer_size()
        return self._since_s + self._server.slow_header_s + float(size) / limits.SLOWEST_BYTES_PER_S

    def _due_s(self) -> float:
        """When what is awaited now is too late."""
        if not self._writable:
            return self._write_due_s()
        if self._ended:
            return self._since_s + LINGER_S
        if self._active is not None and not self._active.answered:
            waits = self._active.waiter is not None and not self._active.whole
            return self._active.due_s() if waits else self._loop.time() + limits.KEEP_ALIVE_S  # the model's time
        if self._in_head or not self._requests or self._active is not None:
            return self._since_s + self._server.slow_header_s
        return self._since_s + limits.KEEP_ALIVE_S

    def _look(self) -> None:
        self._timer = None
        due_s = self._due_s()
        if due_s > self._loop.time():
            self._arm(due_s)
        elif self._ended or not self._writable:
            self._transport.abort()
        elif self._active is not None and not self._active.answered:
            self._active.too_slow()
        elif self._in_head or not self._requests:
            self._refuse(408, "the request headers came too slowly")
        else:
            self._transport.close()


def _path(url: bytes) -> str:
    """The path of a request's target, decoded."""
    if url[:1] != b"/" or b"?" in url or b"#" in url:
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return "?"  # such as CONNECT's; no route begins so
    path = url.decode("latin-1")
    return urllib.parse.unquote(path) if "%" in path else path
