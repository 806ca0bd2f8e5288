"""Whether a port of this machine is free, tried by listening on it for a moment."""

from __future__ import annotations

import errno
import socket

from intermodal.errors import InputError, PortTakenError


def check_port(address: str, port: int) -> None:
    """Return when nobody listens on a port.

    Raises:
        PortTakenError: somebody does.
        InputError: this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
            trial.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(
                    f"cannot offer the model on port {port}",
                    found=f"somebody else listens on {address}:{port}",
                    next="give it another one: port = … under [deploy], or --port",
                ) from error
            raise InputError(f"cannot listen on {address}:{port}", found=str(error.strerror)) from error
