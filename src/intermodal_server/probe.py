"""The image's HEALTHCHECK: asks the server of this container whether it is ready (or, with `live`, alive).

Takes the environment that the server was started with, hands on exit status 0 or 1. Standard library sockets only,
because it runs every few seconds and must start fast.
"""

from __future__ import annotations

import os
import socket
import sys

from intermodal_server.options import OptionError, Options, read_options

TIMEOUT_S = 5.0


def ask(options: Options, path: str) -> bytes:
    """The answer's status line and what followed in the same packet.

    Raises:
        OSError: nobody answers within `TIMEOUT_S`.
    """
    if options.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: object = options.socket
    else:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)  # noqa: S104
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        address = (host, options.port)
    with connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(address)  # type: ignore[arg-type]  # either form
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(4096)


def run(arguments: list[str]) -> int:
    """0 when the server answers 200, else 1 with a line that says why."""
    path = "/v2/health/live" if arguments == ["live"] else "/v2/health/ready"
    try:
        answer = ask(read_options(os.environ), path)
    except (OSError, OptionError) as error:
        sys.stdout.write(f"no answer: {error}\n")
        return 1
    if answer.startswith(b"HTTP/1.1 200 "):
        return 0
    sys.stdout.write(answer.partition(b"\r\n\r\n")[2].decode("utf-8", "replace") + "\n")
    return 1
