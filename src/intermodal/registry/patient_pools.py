"""urllib3's pools with one limit more: the head of an answer must be there in time, as a whole.

A time-out of a socket starts anew with every byte, so a peer that sends one byte of a header now and then could hold
a connection for ever. A file apart, because it can only be defined once urllib3 is imported.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

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
    with suppress(OSError):
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)


class _Plain(_Limited, HTTPConnection):  # type: ignore[misc]  # the same function, seen twice
    pass


class _Secure(_Limited, HTTPSConnection):  # type: ignore[misc]
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


def pools() -> dict[str, type[HTTPConnectionPool]]:
    """The pool of each scheme."""
    return {"http": _PlainPool, "https": _SecurePool}
