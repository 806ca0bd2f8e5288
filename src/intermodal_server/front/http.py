"""The HTTP server: listening sockets, the connections they bring, and their end.

Takes sockets from the supervisor and an application, hands on nothing; `serve` returns when `should_exit` was set and
every connection is closed. Signals belong to the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Hashable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Callable, Protocol

from intermodal_server.front import limits
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.guard.readers import Readers
from intermodal_server.front.protocol import CLOSE, Connection, Headers

BACKLOG = 2048
WATCH_S = 1.0
ACCEPT_AT_ONCE = 64
ACCEPT_AGAIN_S = 0.5
OTHER_DESCRIPTORS = 128  # listeners, workers, files: what is not a client's connection
MAX_STARTS = 64
MAX_HELD_BYTES = 512 << 20  # of large bodies that are not whole, on all connections


Give = Callable[[socket.socket], bool]  # a new connection to another process; False: it is served here


class Application(Protocol):
    """Who answers."""

    async def answer(self, exchange: Exchange) -> tuple[int, Headers, bytes]:
        """Status, headers and body.

        Raises:
            Disconnected: there is nobody left to answer.
        """
        ...


class HttpServer:
    """One for the life of the front."""

    def __init__(self, app: Application, *, slow_header_s: float, max_connections: int) -> None:
        self.app = app
        self.slow_header_s = slow_header_s
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_connections = max(1, min(max_connections, descriptors - OTHER_DESCRIPTORS))
        self.max_connections = self._most_connections
        self._readers = Readers(slow_header_s)
        self._held_bytes = 0
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.on_change: Callable[[], None] | None = None  # a connection has ended
        self.closing = False
        self._left = False
        self.started = False
        self._exit = asyncio.Event()
        self._servers: list[asyncio.AbstractServer] = []
        self._doors: list[socket.socket] = []
        self._give: Give | None = None
        self._coming: set[asyncio.Task[None]] = set()
        self._second = 0
        self._starts: dict[Hashable, str] = {}  # of answers of this second

    # --- life ---------------------------------------------------------------------------------------------------------
    @property
    def should_exit(self) -> bool:
        """Whether the end was asked for."""
        return self._exit.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        """Ask for the end; it cannot be taken back."""
        if value:
            self._exit.set()

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Accept until `should_exit`, then return once every connection is done."""
        # not socket.dup(), which makes the listener blocking for a moment, for the supervisor as well
        self._doors = [socket.socket(fileno=os.dup(listener.fileno())) for listener in sockets]
        for listener in sockets:
            self._servers.append(await self.loop.create_server(self._connection, sock=listener, backlog=BACKLOG))
        self.started = True
        watch = self.loop.create_task(self._watch())
        await self._exit.wait()
        self.stop_accepting()
        self.close_after_answers()
        while self.load:
            for connection in list(self.connections):
                connection.finish()
            await asyncio.sleep(0.05)
        watch.cancel()

    async def _watch(self) -> None:
        """End clients that do not read their answers, also while draining."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._readers.look(self.connections, self.loop.time())

    def forget(self, connection: Connection) -> None:
        """It has ended."""
        self.connections.discard(connection)
        if self.on_change is not None:
            self.on_change()

    def hold(self, size: int) -> bool:
        """Count bytes of large bodies that are not whole; False when all of them together are too many."""
        self._held_bytes += size
        return self._held_bytes <= MAX_HELD_BYTES

    def _connection(self) -> Connection:
        return Connection(self)

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that somebody else has accepted and not read from."""
        connection.setblocking(False)
        await self.loop.connect_accepted_socket(self._connection, connection)

    def take(self, connection: socket.socket) -> None:
        """Begin to serve such a connection."""
        task = self.loop.create_task(self.adopt(connection))
        self._coming.add(task)
        task.add_done_callback(self._has_come)

    def _has_come(self, task: asyncio.Task[None]) -> None:
        self._coming.discard(task)
        if not task.cancelled():
            task.exception()  # a client that has gone already

    @property
    def load(self) -> int:
        """How many connections are open here, or will be in a moment."""
        return len(self.connections) + len(self._coming)

    def divide(self, processes: int) -> None:
        """Be one of several that share the connections there may be."""
        self.max_connections = max(1, self._most_connections // processes)

    def share(self, give: Give) -> None:
        """From now on every new connection is offered to `give` before it is served here."""
        if self._give is not None or not self._servers:
            return
        self._give = give
        for server in self._servers:
            server.close()
        for door in self._doors:
            self.loop.add_reader(door.fileno(), self._let_in, door)

    def _let_in(self, door: socket.socket) -> None:
        assert self._give is not None
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, _ = door.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors: they wait in the backlog
                self.loop.remove_reader(door.fileno())
                self.loop.call_later(ACCEPT_AGAIN_S, self._watch_door, door)
                return
            if self._give(connection):
                connection.close()
            else:
                self.take(connection)

    def _watch_door(self, door: socket.socket) -> None:
        if door.fileno() >= 0 and not self._left:
            self.loop.add_reader(door.fileno(), self._let_in, door)

    def stop_accepting(self) -> None:
        """Leave new connections to another front; those that are here go on."""
        self._left = True
        if self._give is None:
            for server in self._servers:
                server.close()
            return
        for door in self._doors:
            if door.fileno() >= 0:
                self.loop.remove_reader(door.fileno())

    async def shut(self) -> None:
        """Let nobody in any more, in whatever process the listening sockets are; who stands in line is answered.

        A client that comes later is refused at once and may go elsewhere; in a line where nobody serves any more it
        would wait, and lose its request when this container ends.
        """
        self.stop_accepting()
        line: list[socket.socket] = []
        for door in self._doors:
            door.setblocking(False)
            with contextlib.suppress(OSError):  # nobody left in line
                for _ in range(2 * BACKLOG):  # without a pause: who is answered meanwhile would stand in line again
                    line.append(door.accept()[0])
            with contextlib.suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)
            door.close()
        for connection in line:
            self.take(connection)

    def close_after_answers(self) -> None:
        """From now on every answer carries `Connection: close`."""
        self.closing = True

    # --- answers ------------------------------------------------------------------------------------------------------
    def head(self, status: int, headers: Headers, size: int, keep_alive: bool, request_id: str = "") -> bytes:
        """Everything before the body; answers of one second mostly begin alike.

        Raises:
            ValueError: a header would become two; a mistake of ours.
        """
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._starts.clear()
        key = (status, keep_alive, *headers)
        start = self._starts.get(key)
        if start is None:
            start = self._start(status, headers, keep_alive)
            if len(self._starts) < MAX_STARTS:
                self._starts[key] = start
        if request_id:
            return f"{start}x-request-id: {request_id}\r\ncontent-length: {size}\r\n\r\n".encode("latin-1")
        return f"{start}content-length: {size}\r\n\r\n".encode("latin-1")

    def _start(self, status: int, headers: Headers, keep_alive: bool) -> str:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", f"date: {formatdate(self._second, usegmt=True)}"]
        if not keep_alive and CLOSE not in headers:
            lines.append("connection: close")
        lines += [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in headers]
        if any("\n" in line or "\r" in line for line in lines):
            raise ValueError("a header with a line break")
        return "".join([f"{line}\r\n" for line in lines])


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def make_server(app: Application, *, slow_header_s: float, max_connections: int = limits.MAX_CONNECTIONS) -> HttpServer:
    """A server for `app` that has not started yet; called inside the event loop."""
    return HttpServer(app, slow_header_s=slow_header_s, max_connections=max_connections)
