"""uvicorn's HTTP protocol with limits that it does not have: header size and count, slow headers, connection count.

Takes bytes of a connection, hands on ASGI calls. What is refused here has not reached the application; the answer is
the same JSON as everywhere. Also what drain needs: `finish` makes every connection close after its answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from intermodal_server.front import limits


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    slow_header_s = 10.0
    closing = False  # set on the class once drain asks connections to end

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_headers = True
        self._header_bytes = 0  # of complete headers and trailers
        self._header_count = 0
        self._idle_bytes = 0  # received without a header or a byte of body coming out of it
        self._progress = False
        self._requests = 0
        self._refusal = (400, "this is not an HTTP request")
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > limits.MAX_CONNECTIONS:
            self._refuse(503, "too many connections")
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._disarm()
        self._header_timer = self.loop.call_later(self.slow_header_s, self._too_slow)

    def _disarm(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(408, "the request headers came too slowly")

    def _refuse(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        self.send_400_response(message)

    def send_400_response(self, msg: str) -> None:
        """Answer what never became a request, then close."""
        status, message = self._refusal
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()  # in the middle of another answer; more bytes would corrupt it
            return
        body = json.dumps({"error": message}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless this connection has sent too much without saying anything."""
        if self.transport.is_closing():
            return
        self._progress = False
        super().data_received(data)
        if self._progress:
            self._idle_bytes = 0
            return
        self._idle_bytes += len(data)
        if self._idle_bytes > limits.MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse(431 if self._in_headers else 400, "the request headers are too large")

    def on_message_begin(self) -> None:
        """A request begins: from here its headers are timed."""
        super().on_message_begin()
        self._in_headers, self._header_bytes, self._header_count = True, 0, 0
        if self._header_timer is None:
            self._arm()

    def on_url(self, url: bytes) -> None:
        """Count the target as a header."""
        self._count(url, b"")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the header; trailers come here too."""
        self._header_count += 1
        self._count(name, value)
        super().on_header(name, value)

    def _count(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > limits.MAX_HEADER_BYTES or self._header_count > limits.MAX_HEADERS:
            self._refusal = (431, "the request headers are too large")
            raise ValueError("headers too large")

    def on_headers_complete(self) -> None:
        """The application takes over."""
        self._progress, self._in_headers = True, False
        self._disarm()
        self._requests += 1
        super().on_headers_complete()
        if self.cycle is not None and (self.closing or self._requests >= limits.MAX_REQUESTS_PER_CONNECTION):
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass the body on."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._progress = True
        super().on_message_complete()

    def finish(self) -> None:
        """Say `Connection: close` on the answer that is still to come."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
