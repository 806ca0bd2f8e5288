"""The open ports of a container without network: one for HTTP and one for gRPC, each before a socket of its own.

Takes what a `RunRequest` asks for, hands on ports that are held from the start, so that a taken one is told before
anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intermodal.engine.forward import Forwarder
from intermodal.engine.interface import RunRequest
from intermodal.errors import InputError
from intermodal_server.contract import GRPC_PORT


class Doors:
    """Both ports; `close` must be called.

    Raises:
        PortTakenError: somebody listens on one of them.
    """

    def __init__(self, request: RunRequest) -> None:
        self._http = None if request.port is None else Forwarder(request.port)
        try:
            self._grpc = None if request.grpc_port is None else Forwarder(request.grpc_port, "--grpc-port")
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """Of HTTP; 0 when it has none."""
        return self._http.port if self._http else 0

    @property
    def grpc_port(self) -> int:
        """Of gRPC; 0 when it has none."""
        return self._grpc.port if self._grpc else 0

    def start(self, socket: Path, grpc_socket: Path) -> None:
        """Forward connections to the sockets, which may appear later."""
        if self._http:
            self._http.start(socket)
        if self._grpc:
            self._grpc.start(grpc_socket)

    def close(self) -> None:
        """Drop all connections; safe to call twice."""
        for name in ("_http", "_grpc"):
            forwarder = getattr(self, name, None)
            setattr(self, name, None)
            if forwarder is not None:
                forwarder.close()


def serves_grpc(settings: Mapping[str, Any]) -> bool:
    """Whether the "config" object of an image names the port of gRPC."""
    return f"{GRPC_PORT}/tcp" in (settings.get("ExposedPorts") or {})


def check_grpc(request: RunRequest, offered: bool) -> None:
    """Return when the image has what is asked for.

    Raises:
        InputError: gRPC is asked for and the image has none.
    """
    if request.grpc_port is not None and not offered:
        raise InputError(
            "this image does not serve gRPC",
            found=f"it does not name port {GRPC_PORT}",
            next="[serve] grpc = true in intermodal.toml, and build it again",
        )
