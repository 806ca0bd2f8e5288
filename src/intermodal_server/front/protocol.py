"""One HTTP/1.1 connection: bytes in, requests to the application, answers out in order.

Takes bytes from the event loop, has `reading.Reader` make requests of them, hands those to `Application.answer`; this
module keeps the order and the clock. What is refused here has not reached the application; the answer is the same JSON
as everywhere.

Rules, in order:
1. One request of a connection is answered at a time; those sent ahead wait, and reading pauses while they do.
2. A head has `slow_header_s` to arrive; one without end is 408, a large one 431.
3. A client that does not read gets no further answers; `guard/readers.py` ends it.
4. After what cannot be understood nothing more is read; what came before it is still answered.
5. A connection that is one too many takes the place of one that waits for its client, those never answered first.
6. One timer a connection: it looks at the state when it fires, and is moved only when something is due earlier.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from intermodal_server.front import limits
from intermodal_server.front.crowd import has_unread, make_room
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.framing import Denial
from intermodal_server.front.incoming import HIGH_WATER_BYTES, Incoming
from intermodal_server.front.limits import Disconnected, Refusal
from intermodal_server.front.reading import Reader, Unreadable
from intermodal_server.front.stepping import Stepper

if TYPE_CHECKING:
    from intermodal_server.front.http import HttpServer

AGAIN_S = 0.05
JOINED_BYTES = 64 << 10  # a larger body is not copied behind its head
LINGER_S = 2.0  # for a client that still sends to read why nobody listens
CLOSE = (b"connection", b"close")
RETRY = ((b"retry-after", b"1"),)
Headers = Sequence[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """From accept to close."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = server.loop
        self.reader = Reader(self)
        self.transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._since_s = self._loop.time()  # when what is awaited now began
        self._reading = self._writable = True
        self._ended = False  # nothing that arrives matters any more
        self._refusal: Denial = None
        self._held_bytes = 0  # of a body, as the server counts those that are large and not whole
        # the request that is answered now, and those after it
        self._active: Incoming | None = None
        self._run: Stepper | None = None  # of it
        self._beginning = False
        self._waiting: deque[Incoming] = deque()

    # --- the event loop's calls ---------------------------------------------------------------------------------------
    def connection_made(self, transport: Any) -> None:
        """Begin, unless there are too many."""
        self.transport = transport
        connections = self._server.connections
        connections.add(self)
        if len(connections) > self._server.max_connections and not make_room(connections, self):
            self._refuse(503, "too many connections")
        else:
            self._arm(self._since_s + self._server.slow_header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever works for this client."""
        self._server.forget(self)
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()
        if self._active is not None and not self._active.answered:
            self._active.lost()
            if self._run is not None and self._active.whole:
                self._run.cancel()
        self._waiting.clear()
        self.reader.close()

    def eof_received(self) -> bool:
        """The client has said all it wanted; what was asked is answered before the connection closes."""
        if self._active is not None and (self._active.answered or not self._active.whole):
            return False
        self._waiting = deque(request for request in self._waiting if request.whole)
        last = self._waiting[-1] if self._waiting else self._active
        if last is None:
            return False
        self._ended, last.keep_alive = True, False
        return True

    def data_received(self, data: bytes) -> None:
        """Read on; begin with what has become a request."""
        if self._ended:
            return
        if self._active is None and self._writable and not self._waiting:
            request = self.reader.again(data)
            if request is not None:
                self._begin(request)
                return
        try:
            self.reader.feed(data)
        except Unreadable as error:
            self._refuse(error.status, error.message)
            return
        if self._waiting:
            self._proceed()
            if len(self._waiting) > 1 or not self._writable:
                self._pause()
        if self.reader.in_head and self._active is None:
            self._arm(self._since_s + self._server.slow_header_s)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        self._writable = False

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable = True
        self._since_s = self._loop.time()
        self._proceed()

    # --- the reader's calls -------------------------------------------------------------------------------------------
    def begins(self) -> None:
        """A request begins: from here its head is timed."""
        if self._active is None:
            self._since_s = self._loop.time()

    def came(self, request: Incoming) -> None:
        """The application may begin."""
        self._waiting.append(request)

    def grew(self, request: Incoming, piece: bytes) -> None:
        """A piece of a body: kept, unless all that are not whole are too much together."""
        if not request.add(piece):
            self._pause()
        if len(request.body) > HIGH_WATER_BYTES and not request.answered:
            self._held_bytes += len(piece)
            if not self._server.hold(len(piece)):
                request.spoil(Refusal(503, "too many large requests are arriving", headers=RETRY, close=True))

    def _let_go(self) -> None:
        if self._held_bytes:
            self._server.hold(-self._held_bytes)
            self._held_bytes = 0

    def ended(self, request: Incoming) -> None:
        """A request is whole."""
        self._let_go()
        request.end()
        if request is self._active and request.answered:
            self._next()

    # --- one request after the other ----------------------------------------------------------------------------------
    def _begin(self, request: Incoming) -> None:
        self._active = request
        self._run = run = Stepper(self._answer(request), self._loop)
        self._beginning = True
        run.step()
        self._beginning = False

    async def _answer(self, request: Incoming) -> None:
        exchange = Exchange(request.head, request.receive)
        try:
            status, headers, body = await self._server.app.answer(exchange)
            self._write(request, status, headers, body, exchange.request_id)
        except Disconnected:
            self.transport.abort()
        except Exception:  # not even an error could be told; the loop's handler logs it
            self.transport.abort()
            raise

    def _write(self, request: Incoming, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        transport, server = self.transport, self._server
        if transport.is_closing():
            return
        if server.closing or not (request.whole or request.skippable()) or CLOSE in headers:
            request.keep_alive = False
        head = server.head(status, headers, len(body), request.keep_alive, request_id)
        if request.head.method == "HEAD":
            transport.write(head)
        elif len(body) <= JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines([head, body])
        request.answered = True
        request.body = b""
        self._let_go()
        if request.whole or not request.keep_alive:
            self._next()

    def _next(self) -> None:
        """After an answer: end, or begin with the next request, or wait for one."""
        request, self._active, self._run = self._active, None, None
        self._since_s = self._loop.time()
        if request is not None and not request.keep_alive:
            self._end(linger=not request.whole)
        else:
            self._proceed()

    def _proceed(self) -> None:
        """Do what is next, when it can be done now."""
        if self._active is not None or not self._writable:
            return
        if self._beginning:  # answered at once: others come before the next of this connection
            self._loop.call_soon(self._proceed)
        elif self._waiting:
            self._begin(self._waiting.popleft())
        elif self._refusal is not None:
            self._answer_refusal(*self._refusal)
        elif not self._ended:
            self._resume()

    def want_body(self) -> None:
        """Somebody waits for the rest of the active request's body."""
        request = self._active
        if request is None or self.transport.is_closing():
            return
        if request.expects:
            request.expects = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume()
        self._arm(request.due_s())

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    # --- the end ------------------------------------------------------------------------------------------------------
    def _refuse(self, status: int, message: str) -> None:
        """Answer what never became a request, after everything that did; then close."""
        self._refusal = (status, message)
        self._ended = True
        if self.reader.last is not None and not self.reader.last.whole:
            self.reader.last.spoil(Refusal(status, message, close=True))
        self._proceed()

    def _answer_refusal(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps({"error": message}).encode()
        head = self._server.head(status, [(b"content-type", b"application/json")], len(body), False)
        self.transport.write(head + body)
        self._end(linger=True)

    def _end(self, *, linger: bool) -> None:
        """Close; while the client still sends, only our half, so that it can read the answer."""
        self._ended, self._refusal = True, None
        self._waiting.clear()
        if not linger or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._resume()
        self.transport.write_eof()
        self._since_s = self._loop.time()
        self._arm(self._since_s + LINGER_S)

    def finish(self) -> None:
        """Close as soon as what was asked is answered."""
        if self._active is None and not self._waiting and not self.reader.in_head and not has_unread(self.transport):
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

    def _due_s(self) -> float:
        """When what is awaited now is too late."""
        if self._ended:
            return self._since_s + LINGER_S
        if self._active is not None and not self._active.answered:
            waits = self._active.waiter is not None and not self._active.whole
            return self._active.due_s() if waits else self._loop.time() + limits.KEEP_ALIVE_S  # the model's time
        if self.reader.in_head or not self.reader.requests or self._active is not None:
            return self._since_s + self._server.slow_header_s
        return self._since_s + limits.KEEP_ALIVE_S

    def _look(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return  # with an answer that is not read yet: `guard/readers.py` looks after it
        due_s = self._due_s()
        if due_s > self._loop.time():
            self._arm(due_s)
        elif self._ended:
            self.transport.abort()
        elif self._reading and has_unread(self.transport):
            self._arm(self._loop.time() + AGAIN_S)  # it is we who are slow
        elif self._active is not None and not self._active.answered:
            if self._active.too_slow(self._loop.time()):
                self._arm(self._active.due_s())
        elif self.reader.in_head or not self.reader.requests:
            self._refuse(408, "the request headers came too slowly")
        else:
            self.transport.close()

    @property
    def answered(self) -> bool:
        """Whether any request has been answered here."""
        return self.reader.requests > len(self._waiting) + (self._active is not None and not self._active.answered)

    @property
    def waits_since_s(self) -> float | None:
        """Since when the client has to do something before anything goes on here; None when it is our turn."""
        if self._active is None:
            return None if self._waiting else self._since_s
        return None if self._active.whole else self._active.since_s or self._since_s
