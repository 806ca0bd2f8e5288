"""gRPC for this front, or nothing in its place: only an image that asks for it has grpcio, so nobody else imports it.

Takes options, settings and the application, hands on what can be started, told to leave, and waited for.
"""

from __future__ import annotations

from typing import Protocol

from intermodal_server.contract import ModelSettings
from intermodal_server.front.app import App
from intermodal_server.log import Log
from intermodal_server.options import Options


class Beside(Protocol):
    """A server beside the one for HTTP."""

    async def start(self) -> None:
        """Take calls; returns when every port is open."""
        ...

    def leave(self, grace_s: float) -> None:
        """Take no more; calls that are here have `grace_s` to end."""
        ...

    async def finished(self) -> None:
        """Return when the last call has ended."""
        ...


class NoGrpc:
    """What an image without gRPC has."""

    async def start(self) -> None:
        """Nothing to open."""

    def leave(self, grace_s: float) -> None:
        """Nobody to send away."""

    async def finished(self) -> None:
        """Nothing to wait for."""


def make_grpc(options: Options, settings: ModelSettings, app: App, log: Log) -> Beside:
    """The gRPC server of these options, which has not started yet."""
    addresses = options.grpc_addresses(settings)
    if not addresses:
        return NoGrpc()
    from intermodal_server.front.grpc.server import GrpcServer

    names = [_name(*address) for address in addresses]
    limit = options.max_connections
    return GrpcServer(app, names, log, slow_body_s=options.slow_body_s, max_connections=limit)


def _name(host: str, port: int) -> str:
    """The address in grpcio's words."""
    if not port:
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
