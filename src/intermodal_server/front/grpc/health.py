"""`grpc.health.v1.Health`: what `grpc_health_probe`, Kubernetes and Envoy ask.

Takes the health of the front, hands on SERVING or NOT_SERVING, once or with every change. The server as a whole (""),
the inference service and the model all have the same answer; another name is NOT_FOUND, and for a watcher
SERVICE_UNKNOWN.

Spec: gRPC, "GRPC Health Checking Protocol".
"""

from __future__ import annotations

import asyncio
from typing import Any

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.grpc.messages import INFERENCE, message
from intermodal_server.front.limits import Refusal
from intermodal_server.front.service import Service

POLL_S = 0.1
MAX_WATCHERS = 64

_Response = message("grpc.health.v1.HealthCheckResponse")
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """Check and Watch."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._names = ("", INFERENCE, service.settings.name)
        self._watchers = 0
        self.ended = False  # set when the server leaves: watchers would keep it

    def _status(self, name: str) -> int:
        if name not in self._names:
            return SERVICE_UNKNOWN
        return SERVING if self._service.health_body()["ready"] else NOT_SERVING

    async def check(self, request: Any, _: Exchange) -> bytes:
        """The answer of now.

        Raises:
            Refusal: 404, nothing here has this name.
        """
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            raise Refusal(404, "there is no such service")
        return _bytes(status)

    async def watch(self, request: Any, context: Any) -> None:
        """Send the answer, and again whenever it changes; ends with the call.

        Raises:
            Refusal: 429, too many watch already.
        """
        if self._watchers >= MAX_WATCHERS:
            raise Refusal(429, "too many calls watch already")
        self._watchers += 1
        last = 0
        try:
            while not self.ended:
                status = self._status(request.service)
                if status != last:
                    last = status
                    await context.write(_bytes(status))
                await asyncio.sleep(POLL_S)
        finally:
            self._watchers -= 1


def _bytes(status: int) -> bytes:
    data: bytes = _Response(status=status).SerializeToString()
    return data
