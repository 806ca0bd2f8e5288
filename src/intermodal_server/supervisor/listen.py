"""The listening sockets, opened once by the supervisor so that a replaced front loses no connection in the backlog.

Takes `Options`, hands on open sockets: TCP, a Unix socket, or both.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence

from intermodal_server.options import Options

BACKLOG = 2048


class ListenError(OSError):
    """An address cannot be listened on; the message names it."""


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)  # front and stand-in may both be woken by one connection
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


def _unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)  # of a server that was killed
        listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103 - the folder decides who reaches it; user ids differ across the mount
        listener.listen(BACKLOG)
        listener.setblocking(False)  # front and stand-in may both be woken by one connection
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from error
    return listener


def open_listeners(options: Options) -> list[socket.socket]:
    """Every socket that the options ask for.

    Raises:
        ListenError: one of them is taken or not allowed.
    """
    listeners = []
    if options.port:
        listeners.append(_tcp(options.host, options.port))
    if options.socket:
        listeners.append(_unix(options.socket))
    return listeners


def check_ports(addresses: Sequence[tuple[str, int]]) -> None:
    """Try the ports that the front will open itself, so that one that is taken is told at once.

    Raises:
        ListenError: one of them is taken or not allowed.
    """
    for host, port in addresses:
        if port:
            _tcp(host, port).close()
