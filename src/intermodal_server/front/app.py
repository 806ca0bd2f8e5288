"""The routes, by hand: a raw ASGI application, one method for each kind of answer.

Takes ASGI requests, hands on answers; `infer` is the one path that golden replay, V2 and `/predict` share.

Rules, in order: nothing but the routes below exists, above all nothing that loads, unloads or fetches; probes answer
from memory and wait for nobody; every error is `{"error": text}` without paths, tracebacks or versions.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Callable

import orjson

from intermodal_server import __version__
from intermodal_server.contract import ModelSettings, TensorSpec
from intermodal_server.front.dispatch import RETRY, Dispatcher
from intermodal_server.front.health import Health
from intermodal_server.front.limits import (
    Disconnected,
    Receive,
    Refusal,
    check_content_type,
    header_map,
    read_body,
)
from intermodal_server.front.predict import format_predict, parse_predict
from intermodal_server.front.signature import match
from intermodal_server.front.v2 import Headers, format_response, parse_request, select_outputs
from intermodal_server.log import Log
from intermodal_server.tensors import Tensor

Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[int, Headers, bytes]
JSON: Headers = [(b"content-type", b"application/json")]
NOTHING_HERE = Refusal(404, "there is nothing at this path")


def _json(status: int, document: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    return status, [*JSON, *headers], orjson.dumps(document)


class App:
    """The application; one for the life of the front."""

    def __init__(
        self, settings: ModelSettings, dispatcher: Dispatcher, health: Health, *, slow_body_s: float, log: Log
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._health = health
        self._slow_body_s = slow_body_s
        self._log = log
        self._count = itertools.count(1)
        self._observed: tuple[TensorSpec, ...] = settings.signature.outputs

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            status, headers, body = await self._route(scope, receive)
        except Refusal as refusal:
            extra = [*refusal.headers, *([(b"connection", b"close")] if refusal.close else [])]
            status, headers, body = _json(refusal.status, {"error": refusal.message}, extra)
        except Disconnected:
            return
        except Exception as error:  # ours, not the model's: the client learns nothing, the log everything
            self._log.error("the front failed on a request", reason=repr(error), traceback=traceback.format_exc())
            status, headers, body = _json(500, {"error": "the server failed on this request"})
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": body})

    # --- routing ------------------------------------------------------------------------------------------------------
    async def _route(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        if path == "/predict":
            _only(method, "POST")
            return await self._predict(scope, receive)
        root, *parts = path.rstrip("/").split("/")[1:] or [""]
        if root != "v2":
            raise NOTHING_HERE
        if not parts:
            _only(method, "GET")
            return _json(200, self._server_metadata())
        if parts[0] == "health":
            return self._probe(parts, method)
        if parts == ["repository", "index"]:
            _only(method, "POST")
            return _json(200, [self._index_entry()])
        if parts[0] == "models" and len(parts) > 1:
            return await self._model(parts, method, scope, receive)
        raise NOTHING_HERE

    def _probe(self, parts: list[str], method: str) -> Answer:
        if parts not in (["health", "live"], ["health", "ready"]):
            raise NOTHING_HERE
        _only(method, "GET")
        if parts == ["health", "live"]:
            return _json(200, {"live": True})
        body = self._health_body()
        return _json(200 if body["ready"] else 503, body)

    def _health_body(self) -> dict[str, Any]:
        self._health.workers = self._dispatcher.workers
        return self._health.body()

    async def _model(self, parts: list[str], method: str, scope: Mapping[str, Any], receive: Receive) -> Answer:
        name, rest = parts[1], parts[2:]
        if name != self._settings.name:
            raise Refusal(404, "there is no model of this name")
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != self._settings.version:
                raise Refusal(404, "there is no such version of this model")
            rest = rest[2:]
        if not rest:
            _only(method, "GET")
            return _json(200, self._model_metadata())
        if rest == ["ready"]:
            _only(method, "GET")
            body = {"name": name, **self._health_body()}
            return _json(200 if body["ready"] else 503, body)
        if rest == ["infer"]:
            _only(method, "POST")
            return await self._infer(scope, receive)
        raise NOTHING_HERE

    # --- answers ------------------------------------------------------------------------------------------------------
    def _server_metadata(self) -> dict[str, Any]:
        return {"name": "intermodal", "version": __version__, "extensions": ["binary_tensor_data", "model_repository"]}

    def _model_metadata(self) -> dict[str, Any]:
        return {
            "name": self._settings.name,
            "versions": [self._settings.version],
            "platform": self._settings.backend,
            "inputs": [spec.as_json() for spec in self._settings.signature.inputs],
            "outputs": [spec.as_json() for spec in self._observed],
        }

    def _index_entry(self) -> dict[str, Any]:
        reason = str(self._health_body().get("reason", ""))
        return {
            "name": self._settings.name,
            "version": self._settings.version,
            "state": "UNAVAILABLE" if reason else "READY",
            "reason": reason,
        }

    async def _body(self, scope: Mapping[str, Any], receive: Receive) -> tuple[Mapping[bytes, str], bytes]:
        headers = header_map(scope["headers"])
        check_content_type(headers)
        if not self._health.serving:
            raise Refusal(503, f"not ready: {self._health.reason}", headers=RETRY, close=True)
        limit = self._settings.serve.max_request_bytes
        return headers, await read_body(receive, headers, limit=limit, slow_body_s=self._slow_body_s)

    async def _infer(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        headers, body = await self._body(scope, receive)
        answer_headers, answer = await self.infer(body, headers.get(b"inference-header-content-length"))
        return 200, answer_headers, answer

    async def infer(self, body: bytes, header_length: str | None = None) -> tuple[Headers, bytes]:
        """Headers and body of the answer to one V2 body.

        Raises:
            Refusal: with the status and text that the client gets.
        """
        request = parse_request(body, header_length)
        outputs = await self._run(match(request.inputs, self._settings), request.id)
        return format_response(self._settings, request.id, select_outputs(request, outputs))

    async def _predict(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        _, body = await self._body(scope, receive)
        inputs = match(parse_predict(body, self._settings), self._settings)
        return 200, JSON, format_predict(await self._run(inputs, None))

    async def _run(self, inputs: list[Tensor], request_id: str | None) -> list[Tensor]:
        """Give a request an id of its own where it has none, so that log lines of front and worker meet."""
        outputs = await self._dispatcher.infer(request_id or f"#{next(self._count)}", inputs)
        if not self._observed:
            self._observed = tuple(_spec(output) for output in outputs)
        return outputs


def _spec(tensor: Tensor) -> TensorSpec:
    shape = tuple(-1 if axis == 0 else length for axis, length in enumerate(tensor.shape))
    return TensorSpec(tensor.name, tensor.datatype, shape)


def _only(method: str, allowed: str) -> None:
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        raise Refusal(405, f"this path takes {allowed}", headers=((b"allow", allowed.encode()),))
