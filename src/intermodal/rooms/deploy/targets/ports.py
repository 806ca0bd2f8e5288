"""Whether a port is free: here by listening on it for a moment, on another machine by asking who answers."""

from __future__ import annotations

import errno
import socket

from intermodal.errors import InputError, PortTakenError
from intermodal.rooms.deploy.targets.reach import Reach, reachable

_LISTENS_S = 1.0


def check_port(address: str, port: int, reach: Reach | None = None) -> None:
    """Return when nobody listens on a port of this machine, or of the one that `reach` leads to.

    Raises:
        PortTakenError: somebody does.
        InputError: this machine has no such address.
    """
    if reach is not None and reach.name:
        _check_there(address, port, reach)
    else:
        _check_here(address, port)


def _check_there(address: str, port: int, reach: Reach) -> None:
    try:  # a forwarded connection that nobody takes is closed at once
        with reach.tcp(reachable(address), port, _LISTENS_S) as connection:
            taken = connection.recv(1) != b""
    except TimeoutError:
        taken = True
    except OSError:
        taken = False
    if taken:
        raise _taken(f"somebody listens on {address}:{port} of {reach.name}", port)


def _check_here(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
            trial.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(f"somebody else listens on {address}:{port}", port) from error
            raise InputError(f"cannot listen on {address}:{port}", found=str(error.strerror)) from error


def _taken(found: str, port: int) -> PortTakenError:
    return PortTakenError(
        f"cannot offer the model on port {port}",
        found=found,
        next="give it another one: port = … under [deploy], or --port",
    )
