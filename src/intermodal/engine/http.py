"""HTTP to a container: one connection, over its Unix socket or its port on loopback.

Takes an `Endpoint`, hands on an `http.client.HTTPConnection`. Never follows a link to the socket (`runtime`), never
goes through a proxy, never follows a redirect.
"""

from __future__ import annotations

import http.client
import socket

from intermodal.engine.interface import Endpoint
from intermodal.engine.runtime import connect_unix


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        assert endpoint.socket is not None
        self._path = endpoint.socket
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket; also called by `request` after the other side has closed."""
        self.sock: socket.socket = connect_unix(self._path, self._timeout_s)


def connection(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    """A connection to the server of a container, opened at the first request; the caller closes it.

    Args:
        endpoint: its socket is preferred.
        timeout_s: for connecting and for each wait for bytes.
    """
    if endpoint.socket is not None:
        return _UnixConnection(endpoint, timeout_s)
    return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)


def get(endpoint: Endpoint, path: str, timeout_s: float = 5.0, limit: int = 1 << 16) -> tuple[int, bytes]:
    """Status and body (at most `limit` bytes) of one GET.

    Raises:
        OSError, http.client.HTTPException: nobody answers, or not in HTTP.
    """
    asked = connection(endpoint, timeout_s)
    try:
        asked.request("GET", path, headers={"Connection": "close"})
        answer = asked.getresponse()
        return answer.status, answer.read(limit)
    finally:
        asked.close()
