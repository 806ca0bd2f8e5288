"""`inference.GRPCInferenceService`: the Open Inference Protocol, and what Triton's clients ask for besides.

Takes one request's message and its exchange, hands on the answer's bytes. Nothing here loads, unloads or maps memory:
such methods do not exist, which gRPC calls UNIMPLEMENTED.

Spec: Open Inference Protocol, "gRPC"; Triton, "Model Configuration Extension", "Statistics Extension", "Model
Repository Extension" (the index only).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Callable

from intermodal_server import __version__
from intermodal_server.front.dialects.config import model_config
from intermodal_server.front.dialects.v2 import V2
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.grpc.codec import check_model, format_infer, parse_infer, select
from intermodal_server.front.grpc.messages import message
from intermodal_server.front.limits import Refusal
from intermodal_server.front.service import Service

Answerer = Callable[[Any, Exchange], Awaitable[bytes]]


class Inference:
    """The methods of the service, by name; `paths` says which HTTP path means the same, for guards and logs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._v2 = V2(service)
        model = f"/v2/models/{service.settings.name}"
        self.paths = {
            "ServerLive": "/v2/health/live",
            "ServerReady": "/v2/health/ready",
            "ModelReady": f"{model}/ready",
            "ServerMetadata": "/v2",
            "ModelMetadata": model,
            "ModelInfer": f"{model}/infer",
            "ModelConfig": f"{model}/config",
            "ModelStatistics": f"{model}/stats",
            "RepositoryIndex": "/v2/repository/index",
        }
        self.methods: dict[str, Answerer] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._model,
            "ModelInfer": self._infer,
            "ModelConfig": self._config,
            "ModelStatistics": self._stats,
            "RepositoryIndex": self._index,
        }

    async def _live(self, _request: Any, _exchange: Exchange) -> bytes:
        return _bytes("ServerLiveResponse", {"live": True})

    async def _ready(self, _request: Any, _exchange: Exchange) -> bytes:
        return _bytes("ServerReadyResponse", {"ready": self._service.health_body()["ready"]})

    async def _model_ready(self, request: Any, _: Exchange) -> bytes:
        check_model(request.name, request.version, self._settings)
        return _bytes("ModelReadyResponse", {"ready": self._service.health_body()["ready"]})

    async def _server(self, _request: Any, _exchange: Exchange) -> bytes:
        extensions = ["classification", "model_configuration", "model_repository", "statistics"]
        document = {"name": "intermodal", "version": __version__, "extensions": extensions}
        return _bytes("ServerMetadataResponse", document)

    async def _model(self, request: Any, _: Exchange) -> bytes:
        check_model(request.name, request.version, self._settings)
        return _bytes("ModelMetadataResponse", self._v2.metadata())

    async def _config(self, request: Any, _: Exchange) -> bytes:
        check_model(request.name, request.version, self._settings)
        return _bytes("ModelConfigResponse", {"config": model_config(self._settings, self._service.outputs)})

    async def _stats(self, request: Any, _: Exchange) -> bytes:
        if request.name:
            check_model(request.name, request.version, self._settings)
        statistics = self._service.statistics.as_json(self._settings.name, self._settings.version)
        return _bytes("ModelStatisticsResponse", statistics)

    async def _index(self, request: Any, _: Exchange) -> bytes:
        if request.repository_name:
            raise Refusal(404, "there is no such repository")
        reason = str(self._service.health_body().get("reason", ""))
        entry = {"name": self._settings.name, "version": self._settings.version, "reason": reason}
        entry["state"] = "UNAVAILABLE" if reason else "READY"
        return _bytes("RepositoryIndexResponse", {"models": [] if reason and request.ready else [entry]})

    async def _infer(self, request: Any, exchange: Exchange) -> bytes:
        exchange.protocol = "grpc"
        self._service.check_serving()
        tensors = parse_infer(request, self._settings)
        outputs = await self._service.run(exchange, tensors)
        return format_infer(self._settings, request.id, select(request, outputs))


def _bytes(name: str, document: dict[str, Any]) -> bytes:
    """A serialized message of ours, from the JSON form that the same answer has over HTTP."""
    from google.protobuf import json_format

    found = json_format.ParseDict(document, message(f"inference.{name}")(), ignore_unknown_fields=True)
    data: bytes = found.SerializeToString()
    return data
