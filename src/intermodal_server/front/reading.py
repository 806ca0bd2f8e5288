"""The requests in the bytes of one connection.

Takes pieces of what a client sends, hands on requests as soon as their heads are whole, and then their bodies.
httptools (llhttp) reads the protocol. What two readers could frame differently is refused.

Rules, in order:
1. The parser's strict form, HTTP/1.0 and 1.1 only, one Host, no transfer coding but chunked, no encoded slash in a
   path. Trailers are counted like headers and then forgotten.
2. 64 KiB and 128 fields of a head; bytes without any effect (an endless field, chunk extensions) count like a head.
3. Nothing is offered by `Upgrade`: such a request is read as an ordinary one. `CONNECT` ends the connection.
4. A request that comes in one piece between two others, with the very head of the last one, is not parsed again: equal
   bytes mean the same. Clients that keep a connection repeat their heads.
"""

from __future__ import annotations

from typing import Any, Protocol

import httptools

from intermodal_server.front import limits
from intermodal_server.front.framing import Denial, framing_of, path_of, refused_head
from intermodal_server.front.head import Head
from intermodal_server.front.incoming import Incoming, Source

LARGE: Denial = (431, "the request headers are too large")
MAX_KNOWN_BYTES = 4096  # of a head that is remembered


class Unreadable(Exception):
    """What came is no request that may be answered; status and sentence say why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Receiver(Source, Protocol):
    """What the reader tells."""

    def begins(self) -> None:
        """A head has begun to arrive."""
        ...

    def came(self, request: Incoming) -> None:
        """Its head is whole."""
        ...

    def grew(self, request: Incoming, piece: bytes) -> None:
        """A piece of its body is here."""
        ...

    def ended(self, request: Incoming) -> None:
        """Its body is whole."""
        ...


class Reader:
    """The reading side of one connection."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser: Any = httptools.HttpRequestParser(self)
        self.requests = 0
        self.in_head = False
        self.last: Incoming | None = None  # the newest request
        self._refusal: Denial = None
        self._url = b""
        self._headers: dict[bytes, str] = {}
        self._header_bytes = self._header_count = 0
        self._idle_bytes = 0  # received without any effect
        self._progress = self._replaying = False
        self._framing = b""  # headers of the body of a request with Upgrade, which the parser takes for one without
        self._known = b""  # the head of the last request, as it came
        self._known_size = 0  # of it with its body

    def again(self, data: bytes) -> Incoming | None:
        """The request in `data` when it is the last one with another body, and nothing else."""
        last, known = self.last, self._known
        if len(data) != self._known_size or last is None or not data.startswith(known):
            return None
        self.requests += 1
        self.last = request = Incoming(last.head, self.requests < limits.MAX_REQUESTS_PER_CONNECTION, self._receiver)
        request.body = data[len(known) :]
        request.whole = True
        self._idle_bytes = 0
        return request

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            Unreadable: the connection must end.
        """
        self._progress = False
        between, before = not self.in_head and (self.last is None or self.last.whole), self.requests
        self._known_size = 0
        try:
            self._parse(data)
        except httptools.HttpParserError:
            raise Unreadable(*(self._refusal or (400, "this is not an HTTP request"))) from None
        if self._progress:
            self._idle_bytes = 0
            if between and self.requests == before + 1:
                self._remember(data)
            return
        self._idle_bytes += len(data)
        if self._idle_bytes > limits.MAX_HEADER_BYTES:
            raise Unreadable(431 if self.in_head else 400, "the request headers are too large")

    def close(self) -> None:
        """Let go of what is not whole: else bodies wait for the cycle collector."""
        self._parser = self.last = None

    def _remember(self, data: bytes) -> None:
        """Keep the head of a request that came in one piece."""
        request, size = self.last, data.find(b"\r\n\r\n") + 4
        if request is None or not (request.whole and request.keep_alive) or size > MAX_KNOWN_BYTES:
            return
        if size + len(request.body) == len(data):  # nothing before it, behind it or around the body
            self._known, self._known_size = data[:size], len(data)

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._decline_upgrade()

    def _decline_upgrade(self) -> None:
        """Let another parser read the body, if there is one: this one thinks that what follows is no HTTP."""
        if self._framing:
            self._parser = httptools.HttpRequestParser(self)
            self._replaying = True
            self._parser.feed_data(self._framing)
            self._replaying, self._framing = False, b""

    # --- the parser's calls -------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        """A request begins."""
        if self._replaying:
            return
        self._url = b""
        self._headers = {}
        self._header_bytes = self._header_count = 0
        self.in_head = True
        self._receiver.begins()

    def on_url(self, url: bytes) -> None:
        """A part of the target, often the whole."""
        if self._replaying:
            return
        self._url += url
        self._header_bytes += len(url)
        if self._header_bytes > limits.MAX_HEADER_BYTES:
            self._deny(LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of the trailer, which nobody reads."""
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > limits.MAX_HEADER_BYTES or self._header_count > limits.MAX_HEADERS:
            self._deny(LARGE)
        if self.in_head:
            text = value.decode("latin-1")
            if self._headers.setdefault(name.lower(), text) is not text and name.lower() == b"host":
                self._deny((400, "a request has exactly one Host"))

    def _deny(self, denial: Denial) -> None:
        """End parsing, and the connection with this answer, if there is one."""
        if denial is not None:
            self._refusal = denial
            raise ValueError(denial[1])

    def on_headers_complete(self) -> None:
        """The application may begin."""
        if self._replaying:
            return
        parser, headers = self._parser, self._headers
        self._deny(refused_head(parser, self._url, headers))
        if parser.should_upgrade():
            self._framing = framing_of(headers)
        self._progress, self.in_head = True, False
        self.requests += 1
        keep_alive = parser.should_keep_alive() and self.requests < limits.MAX_REQUESTS_PER_CONNECTION
        head = Head(parser.get_method().decode("ascii"), path_of(self._url), headers)
        self.last = request = Incoming(head, keep_alive, self._receiver)
        if b"expect" in headers:
            request.expects = headers[b"expect"].lower() == "100-continue"
        self._receiver.came(request)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._progress = True
        if self.last is not None:
            self._receiver.grew(self.last, body)

    def on_message_complete(self) -> None:
        """The request is whole, unless it is one with Upgrade and its body comes now."""
        if self._framing or self.last is None:
            return
        self._progress = True
        self._receiver.ended(self.last)
