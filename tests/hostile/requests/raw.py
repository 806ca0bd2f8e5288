"""Bytes on a connection of their own: what is sent, and every status that comes back until the server is done."""

from __future__ import annotations

import contextlib
import re
import resource
import select
import socket
from pathlib import Path

from support.serving import Served

LIVE = b"/v2/health/live"
INFER = b"/v2/models/echo/infer"
STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


def head(*lines: bytes, target: bytes = INFER, method: bytes = b"POST", version: bytes = b"HTTP/1.1") -> bytes:
    """Request line and headers, with a Host."""
    return b"\r\n".join([method + b" " + target + b" " + version, b"Host: a", *lines, b"", b""])


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionError:
            return received
        if not data:
            return received
        received += data


def exchange(server: Served, sent: bytes, *, half_closed: bool = False) -> bytes:
    """What comes back, until the server closes."""
    with server.raw() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
            if half_closed:
                connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def statuses(answer: bytes) -> list[int]:
    """The status of every answer in a stream of them."""
    return [int(found) for found in STATUS.findall(answer)]


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def hung_up(connection: socket.socket) -> bool:
    """Whether the server has ended a connection, found out without reading from it."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return bool(poll.poll(0))
