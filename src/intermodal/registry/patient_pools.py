"""urllib3's pools with one limit more: the head of an answer must be there in time, as a whole.

A time-out of a socket starts anew with every byte, so a peer that sends one byte of a header now and then could hold
a connection for ever. A file apart, because it can only be defined once urllib3 is imported.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

HEAD_READS = 2  # the head may take so many times as long as one read


class _Limited:
    """A connection that is cut when the head of an answer takes too long."""

    def getresponse(self) -> HTTPResponse:
        """The answer, its head read."""
        connection: Any = self
        limit_s = connection.timeout
        if not isinstance(limit_s, int | float):
            return super().getresponse()  # type: ignore[misc,no-any-return]
        late = threading.Event()
        timer = threading.Timer(HEAD_READS * limit_s, _cut, [connection.sock, late])
        timer.daemon = True
        timer.start()
        try:
            answer: HTTPResponse = super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()
        if late.is_set():  # http.client takes the end of the connection for the end of the head
            connection.close()
            raise TimeoutError("the head of the answer took too long")
        return answer


def _cut(connection: socket.socket | None, late: threading.Event) -> None:
    late.set()
    shut(connection)


def shut(connection: socket.socket | None) -> None:
    """End what is going on over a connection, also of another thread; it gets the end of the stream."""
    with suppress(OSError):
        if connection is not None:
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS's own would pull the rug from under the thread


class Live:
    """The connections of one run that are open."""

    def __init__(self) -> None:
        self._all: WeakSet[Any] = WeakSet()
        self._guard = threading.Lock()
        self._over = False

    def note(self, connection: Any) -> None:
        """Remember a connection; once all have been ended, a new one (of a retry, say) ends at once."""
        with self._guard:
            self._all.add(connection)
            over = self._over
        if over:
            shut(connection.sock)

    def shut(self) -> None:
        """End everything that is going on over all of them."""
        with self._guard:
            self._over = True
            open_now = [connection.sock for connection in self._all]
        for each in open_now:
            shut(each)


def pools(live: Live) -> dict[str, type[HTTPConnectionPool]]:
    """The pool of each scheme; `live` learns of every connection."""

    class Plain(_Limited, HTTPConnection):  # type: ignore[misc]  # the same function, seen twice
        def connect(self) -> None:
            super().connect()
            live.note(self)

    class Secure(_Limited, HTTPSConnection):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            live.note(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
