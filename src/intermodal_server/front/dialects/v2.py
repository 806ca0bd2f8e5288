"""Open Inference Protocol V2 over HTTP: probes, metadata, configuration, statistics, the repository index, inference.

Spec: Open Inference Protocol, "HTTP/REST"; Triton, "Model Configuration Extension", "Statistics Extension",
"Model Repository Extension" (the index only: nothing here loads or unloads).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from intermodal_server import __version__
from intermodal_server.front.dialects.config import model_config
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.limits import Body
from intermodal_server.front.names import SMALL_BYTES, check_names
from intermodal_server.front.service import Answer, Routes, Service, json_answer
from intermodal_server.front.v2 import format_response, json_length, parse_request, select_outputs


class V2:
    """The handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings

    def routes(self) -> Routes:
        """Every path of the protocol for this model."""
        found: Routes = {
            "/v2": {"GET": self._server},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
            "/v2/models/stats": {"GET": self._stats},
            "/v2/repository/index": {"POST": self._index},
        }
        name, version = self._settings.name, self._settings.version
        for base in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"):
            found[base] = {"GET": self._model}
            found[f"{base}/ready"] = {"GET": self._model_ready}
            found[f"{base}/config"] = {"GET": self._config}
            found[f"{base}/stats"] = {"GET": self._stats}
            found[f"{base}/infer"] = {"POST": self._infer}
        return found

    async def _live(self, _: Exchange) -> Answer:
        return json_answer(200, {"live": True})

    async def _ready(self, _: Exchange) -> Answer:
        body = self._service.health_body()
        return json_answer(200 if body["ready"] else 503, body)

    async def _model_ready(self, _: Exchange) -> Answer:
        body = {"name": self._settings.name, **self._service.health_body()}
        return json_answer(200 if body["ready"] else 503, body)

    async def _server(self, _: Exchange) -> Answer:
        extensions = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]
        return json_answer(200, {"name": "intermodal", "version": __version__, "extensions": extensions})

    async def _model(self, _: Exchange) -> Answer:
        return json_answer(200, self.metadata())

    def metadata(self) -> dict[str, Any]:
        """Name, versions, inputs and outputs of the model."""
        return {
            "name": self._settings.name,
            "versions": [self._settings.version],
            "platform": self._settings.backend,
            "inputs": [spec.as_json() for spec in self._settings.signature.inputs],
            "outputs": [spec.as_json() for spec in self._service.outputs],
        }

    async def _config(self, _: Exchange) -> Answer:
        config = model_config(self._settings, self._service.outputs)
        decided = self._service.executor.decision.as_json()
        config["parameters"] = {name: {"string_value": str(value)} for name, value in decided.items()}
        return json_answer(200, config)

    async def _stats(self, _: Exchange) -> Answer:
        return json_answer(200, await self._service.all_statistics())

    async def _index(self, _: Exchange) -> Answer:
        reason = str(self._service.health_body().get("reason", ""))
        entry = {
            "name": self._settings.name,
            "version": self._settings.version,
            "state": "UNAVAILABLE" if reason else "READY",
            "reason": reason,
        }
        return json_answer(200, [entry])

    def _infer(self, exchange: Exchange) -> Awaitable[Answer]:
        exchange.protocol = "v2"
        return infer(self._service, exchange)


async def infer(service: Service, exchange: Exchange, body: Body | None = None) -> Answer:
    """The answer to one V2 body; to the request's own, with what its head says of it, when none is given.

    Raises:
        Refusal: with the status and text that the client gets.
    """
    header_length = None
    if body is None:
        body, header_length = await service.body(exchange), exchange.headers.get(b"inference-header-content-length")
    if len(body) > SMALL_BYTES:
        await check_names(body, json_length(header_length, body))
    request = parse_request(body, header_length, floats=service.floats)
    outputs = await service.run(exchange, request.inputs)
    headers, answer = format_response(service.settings, request.id, select_outputs(request, outputs))
    return 200, headers, answer


def routes(service: Service) -> Routes:
    """Every path of V2."""
    return V2(service).routes()
