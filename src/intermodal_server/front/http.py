"""uvicorn as this server uses it: raw ASGI, no signals (the supervisor has them), limits in the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from intermodal_server.front import limits
from intermodal_server.front.protocol import LimitedProtocol


class HttpServer(uvicorn.Server):
    """A uvicorn server that ends when `should_exit` is set, never by a signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    def install_signal_handlers(self) -> None:
        """Leave signals alone; the name that uvicorn before 0.29 used."""

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that somebody else has accepted and not read from."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(
            lambda: LimitedProtocol(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            ),
            connection,
        )

    def stop_accepting(self) -> None:
        """Leave new connections to another front; those that are here go on."""
        for server in self.servers:
            server.close()

    def close_after_answers(self) -> None:
        """From now on every answer carries `Connection: close`."""
        LimitedProtocol.closing = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.finish()


def make_server(app: Any, *, slow_header_s: float) -> HttpServer:
    """A server for `app` that has not started yet."""
    LimitedProtocol.slow_header_s = slow_header_s
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.KEEP_ALIVE_S,
    )
    return HttpServer(config)
