"""The sockets that grpcio opened in this process, found by their address: a graceful end needs them.

Takes addresses, hands on how many connections they have, and shuts their listeners. grpcio ends a server by refusing
new calls on connections that are still open, and such a call fails as CANCELLED, which no client tries again. So
listeners are shut first, then connections are left until each has had its GOAWAY by age, and only then is it ended.

Rules, in order: only sockets bound to our addresses are touched; nothing is closed, only shut, because the descriptors
are grpcio's; where there is no /proc nothing is found, and the end is grpcio's own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from typing import Union

Place = Union[int, str]  # a TCP port, or the path that a Unix socket was bound to
_DESCRIPTORS = "/proc/self/fd"


def _sockets(places: Collection[Place]) -> Iterator[tuple[socket.socket, bool]]:
    """Each socket bound to one of `places`, and whether it listens; valid until the next."""
    try:
        names = os.listdir(_DESCRIPTORS)
    except OSError:
        return
    for name in names:
        with suppress(OSError), closing(_copy(name)) as found:
            if _place(found) in places:
                yield found, bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _copy(name: str) -> socket.socket:
    """A descriptor of this process as a socket with one of its own.

    Raises:
        OSError: it is no socket, or gone.
    """
    descriptor = os.dup(int(name))
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise


def _place(found: socket.socket) -> Place:
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return int(found.getsockname()[1])
    return str(found.getsockname()) if found.family == socket.AF_UNIX else ""


def shut_listeners(places: Collection[Place]) -> None:
    """Let nobody in any more; connections go on."""
    for found, listens in _sockets(places):
        if listens:
            with suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)


def connections(places: Collection[Place]) -> int:
    """How many connections there are."""
    return sum(_is_connected(found) for found, _ in _sockets(places))


def _is_connected(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:  # a listener, shut or not
        return False
    return True
