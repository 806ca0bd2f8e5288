"""The connections that grpcio has in this process, found by their address, and how they are asked to go.

Takes addresses; shuts their listeners, writes GOAWAY to their connections, tells how many are left.

grpcio ends a server by refusing what still comes on connections that are open, as CANCELLED, which no client tries
again; and it has no call that only says GOAWAY. A connection's age would say it, but all the time, and would now and
then cost a call whose client was slow to send. So at its end, and only then, the front says it itself: a GOAWAY without
error and without a last call asks a client to make no more calls on this connection, takes none back, and the client
closes when it has its answers.

Rules, in order:
1. Only sockets bound to our addresses are touched. None is closed here: the descriptors are grpcio's.
2. A frame is written only where nothing waits to be sent, for a frame of grpcio's may have left in part.
3. Where there is no /proc nothing is found, and the end is grpcio's own.

Spec: RFC 9113, "GOAWAY".
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from typing import Union

Place = Union[int, str]  # a TCP port, or the path that a Unix socket was bound to
GOAWAY = struct.pack(">IBIII", 8 << 8 | 7, 0, 0, 0x7FFFFFFF, 0)  # length and kind, flags, stream; last call, no error
_DESCRIPTORS = "/proc/self/fd"


def shut_listeners(places: Collection[Place]) -> None:
    """Let nobody in any more; connections go on."""
    for found in _sockets(places):
        with suppress(OSError):
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.shutdown(socket.SHUT_RDWR)


class Guests:
    """Those who are connected, asked to go one after the other."""

    def __init__(self, places: Collection[Place]) -> None:
        self._places = places
        self._told: set[int] = set()  # inodes

    def send_away(self) -> int:
        """Ask those who were not asked yet; how many are still here."""
        count = 0
        for found in _sockets(self._places):
            if not _is_connected(found):
                continue
            count += 1
            with suppress(OSError):  # it has gone by itself
                inode = os.fstat(found.fileno()).st_ino
                if inode not in self._told and not _waiting_bytes(found):
                    found.send(GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                    self._told.add(inode)
        return count


def _sockets(places: Collection[Place]) -> Iterator[socket.socket]:
    """Each socket bound to one of `places`; valid until the next."""
    try:
        names = os.listdir(_DESCRIPTORS)
    except OSError:
        return
    for name in names:
        with suppress(OSError), closing(_copy(name)) as found:
            if _place(found) in places:
                yield found


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


def _is_connected(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:  # a listener, shut or not
        return False
    return True


def _waiting_bytes(found: socket.socket) -> int:
    """What was written and has not been taken by the other side."""
    return int(struct.unpack("i", fcntl.ioctl(found, termios.TIOCOUTQ, bytes(4)))[0])
