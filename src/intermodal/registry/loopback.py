"""The local store as a read-only registry on this machine: what `intermodal serve-store` runs.

Takes a store and an address, answers with what `answers.py` decides; a blob goes from file to socket inside the
kernel, so the size of an image does not matter here.

Rules, in order:
1. Loopback unless told otherwise: whoever reaches the port can read every image.
2. A connection has a thread; there are at most `MAX_CONNECTIONS`, and what comes then is told to come again.
3. Silence of `SILENCE_S` ends a connection, whichever side keeps it. Bodies of requests are never read.
4. The first Ctrl-C or SIGTERM stops listening and lets downloads finish for `GRACE_S`; the second ends them.
"""

from __future__ import annotations

import http.server
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from intermodal.errors import InputError, PortTakenError
from intermodal.events import SILENT, Events
from intermodal.oci.layout import Store
from intermodal.registry.answers import Answer, Request, answer, refusal
from intermodal.registry.catalog import Catalog, Repository

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONNECTIONS = 256
SILENCE_S = 60.0
GRACE_S = 10.0
_WAIT_S = 5.0  # for one of the connections to end, before a new one is sent away
_POLL_S = 0.1
_BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Served(Struct, frozen=True):
    """What a server did in its life."""

    requests: int
    sent_bytes: int


class StoreServer:
    """A listening server; `serve` answers until a signal, or `start` answers beside other work."""

    def __init__(self, store: Store, *, address: str = "127.0.0.1", port: int = 0, events: Events = SILENT) -> None:
        """Listen.

        Raises:
            PortTakenError: somebody listens there.
            InputError: this machine has no such address.
        """
        self.catalog = Catalog(store)
        self._server = _listen(address, port)
        self._server.catalog, self._server.store, self._server.events = self.catalog, store, events
        self._events = events
        self._thread: threading.Thread | None = None
        self.address, self.port = address, int(self._server.server_address[1])

    @property
    def authority(self) -> str:
        """Address and port, as they stand in a URL."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.authority}"

    @property
    def repositories(self) -> Mapping[str, Repository]:
        """What it offers now."""
        return self.catalog.repositories()

    def start(self) -> StoreServer:
        """This server, answering from now on."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), daemon=True)
        self._thread.start()
        return self

    def serve(self) -> Served:
        """What it did until the first Ctrl-C or SIGTERM; must be called in the main thread."""
        wake = threading.Semaphore(0)

        def stop(*_: object) -> None:
            wake.release()

        before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            wake.acquire()
            self._server.shutdown()
            if busy := self._server.busy:
                self._events.notice(f"finishing {busy} downloads; once more ends them at once")
            until = time.monotonic() + GRACE_S
            while self._server.busy and time.monotonic() < until and not wake.acquire(timeout=_POLL_S):
                pass
            return Served(self._server.requests, self._server.sent_bytes)
        finally:
            self.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Stop listening and cut what is open; safe to call twice."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> StoreServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Threads by connection, counted; `busy` are those that are answering."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    catalog: Catalog
    store: Store
    events: Events

    def __init__(self, place: Any, handler: Callable[..., Any]) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self.busy = self.requests = self.sent_bytes = 0
        super().__init__(place, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(timeout=_WAIT_S):
            with suppress(OSError):
                request.settimeout(1)
                request.sendall(
                    b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            self.shutdown_request(request)
            return
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def count(self, *, busy: int = 0, requests: int = 0, sent_bytes: int = 0) -> None:
        with self._lock:
            self.busy += busy
            self.requests += requests
            self.sent_bytes += sent_bytes


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection, any number of requests."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "intermodal", ""
    timeout = SILENCE_S
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        server = cast("_Server", self.server)
        server.count(busy=1, requests=1)
        try:
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
                self.close_connection = True  # what follows is a body, not the next request
            self._send(answer(Request(self.command, self.path, headers), server.catalog, server.store))
        finally:
            server.count(busy=-1)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _serve  # noqa: N815

    def _send(self, found: Answer) -> None:
        server = cast("_Server", self.server)
        if found.file is None:
            self._head(found)
            if self.command != "HEAD":
                self.wfile.write(found.body)
                server.count(sent_bytes=len(found.body))
        else:
            self._send_file(found, found.file)
        who = self.headers.get("User-Agent", "-").partition(" ")[0] if self.headers else "-"
        server.events.output(f"{self.client_address[0]} {who[:40]} {self.command} {self.path[:160]} {found.status}")

    def _send_file(self, found: Answer, path: Path) -> None:
        try:
            stream = path.open("rb")
        except OSError:  # pruned a moment ago
            self._head(refusal(404, "no such blob"))
            self.close_connection = True
            return
        with stream:
            self._head(found)
            if self.command != "HEAD" and found.length:
                sent = self.connection.sendfile(stream, found.start, found.length)
                cast("_Server", self.server).count(sent_bytes=sent)
                if sent != found.length:
                    self.close_connection = True

    def _head(self, found: Answer) -> None:
        self.send_response(found.status)
        for name, value in found.headers.items():
            self.send_header(name, value)
        if found.status != 304:
            self.send_header("Content-Length", str(found.size_bytes))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request: in the same form as all errors."""
        self.close_connection = True
        found = refusal(int(code), message or "not understood")
        self._head(found)
        if getattr(self, "command", None) != "HEAD":
            self.wfile.write(found.body)

    def log_message(self, *_: object) -> None:
        """Requests are told in `_send`."""


def _listen(address: str, port: int) -> _Server:
    kind = _Server6 if ":" in address else _Server
    try:
        return kind((address, port), _Handler)
    except OSError as error:
        import errno

        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"cannot listen on {address}:{port}",
                found=error.strerror or "",
                next="another port: --port 0 finds one",
            ) from error
        raise InputError(
            f"cannot listen on {address}:{port}",
            found=error.strerror or str(error),
            next="--host takes an address of this machine; 127.0.0.1 always works",
        ) from error
