"""The gRPC server of the front: its ports, its limits, and its end.

Takes the application and the addresses, hands calls to `calls`; runs on the front's own event loop, so that requests of
both protocols wait in one queue and go in one batch.

Rules, in order:
1. grpcio opens its ports itself. They are not shared with anybody, so a front that replaces another waits until that
   one has let go.
2. A Unix socket is bound under a name of its own and moved into place, because grpcio removes at its end whatever has
   the name that it bound, and that would be its successor's.
3. Limits stand in grpcio: metadata, message, calls and connections, the time for a handshake, pings. A request past
   them has not reached us.
4. `leave` shuts the listeners, asks every client to go, and ends when they have gone, or after `LEAVE_S`: then calls
   that are still here are finished, and no more are taken.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

from intermodal_server.front import limits
from intermodal_server.front.app import App
from intermodal_server.log import Log

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines on standard error are not ours to parse
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # a model that forks in this process shall not stop in handlers
import grpc

from intermodal_server.front.grpc.calls import Calls
from intermodal_server.front.grpc.doors import Guests, Place, shut_listeners

BIND_RETRY_S = 0.02
MAX_METADATA_BYTES = limits.MAX_HEADER_BYTES
MAX_CALLS = 4096
MAX_CALLS_PER_CONNECTION = 1024
# of a connection, whose calls then have `LAST_CALL_S`: nobody holds an answer for ever by not reading it
MAX_AGE_S = 3600
LAST_CALL_S = 300
LEAVE_S = 5.0  # for clients to close their connections once they were asked to
LOOK_S = 0.05
PING_S = 60  # a connection that says nothing is asked so often whether it lives
PING_ANSWER_S = 20
MIN_PING_S = 10  # clients may ask us so often; the third early ping ends the connection


class _LogHandler(logging.Handler):
    """grpcio's own errors as lines of our log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.error("the gRPC server reports an error", reason=self.format(record))


class GrpcServer:
    """gRPC of one front, from its first port to its last call."""

    def __init__(
        self,
        app: App,
        addresses: Sequence[str],
        log: Log,
        *,
        slow_body_s: float,
        max_connections: int = limits.MAX_CONNECTIONS,
    ) -> None:
        self._app = app
        self._addresses = tuple(addresses)
        self._log = log
        self._slow_body_s = slow_body_s
        self._max_connections = max_connections
        self._server: Any = None
        self._calls: Calls | None = None
        self._end: asyncio.Task[None] | None = None
        self._places: list[Place] = []

    async def start(self) -> None:
        """Listen on every address; waits for one that another front still has."""
        logger = logging.getLogger("grpc")
        logger.addHandler(_LogHandler(self._log))
        logger.propagate = False
        serve = self._app.service.settings.serve
        options = [
            ("grpc.max_allowed_incoming_connections", self._max_connections),
            *channel_options(serve.max_request_bytes, self._slow_body_s, max(LAST_CALL_S, 3 * serve.timeout_s)),
        ]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CALLS)
        self._calls = Calls(self._app, self._log, slow_body_s=self._slow_body_s)
        server.add_generic_rpc_handlers((self._calls,))
        for address in self._addresses:
            await self._bind(server, address)
        await server.start()
        self._server = server
        if self._end is not None:  # asked to leave in between
            await server.stop(None)

    async def _bind(self, server: Any, address: str) -> None:
        path = address[len("unix:") :] if address.startswith("unix:") else ""
        if path:
            private = os.path.join(os.path.dirname(path), f".{os.getpid()}")
            server.add_insecure_port(f"unix:{private}")
            self._places.append(private)
            os.chmod(private, 0o666)  # noqa: S103 - the folder decides who reaches it
            os.replace(private, path)
            return
        told = False
        while True:
            try:
                self._places.append(int(server.add_insecure_port(address)))
            except RuntimeError:
                if not told:
                    self._log.info("the gRPC port is waited for", address=address)
                    told = True
                await asyncio.sleep(BIND_RETRY_S)
            else:
                return

    def leave(self, grace_s: float) -> None:
        """Take no more calls and send every client away; those that are here have `grace_s` to end."""
        if self._end is None:
            self._end = asyncio.get_running_loop().create_task(self._stop(grace_s))

    async def _stop(self, grace_s: float) -> None:
        if self._server is not None and self._calls is not None:
            self._calls.health.ended = True
            shut_listeners(self._places)
            guests, loop = Guests(self._places), asyncio.get_running_loop()
            until_s = loop.time() + LEAVE_S
            while guests.send_away() and loop.time() < until_s:
                await asyncio.sleep(LOOK_S)
            await self._server.stop(grace_s)

    async def finished(self) -> None:
        """Return when the last call has ended; at once when nobody was asked to leave."""
        if self._end is not None:
            await self._end


def channel_options(max_request_bytes: int, handshake_s: float, last_call_s: float) -> list[tuple[str, int]]:
    """The settings of grpcio, by their public names."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", min(max_request_bytes, 2**31 - 1)),
        ("grpc.max_send_message_length", -1),
        ("grpc.per_message_decompression", 0),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        ("grpc.server_handshake_timeout_ms", int(handshake_s * 1000)),
        ("grpc.max_connection_age_ms", MAX_AGE_S * 1000),
        ("grpc.max_connection_age_grace_ms", int(last_call_s * 1000)),
        ("grpc.keepalive_time_ms", PING_S * 1000),
        ("grpc.keepalive_timeout_ms", PING_ANSWER_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_S * 1000),
        ("grpc.http2.max_ping_strikes", 2),
    ]
