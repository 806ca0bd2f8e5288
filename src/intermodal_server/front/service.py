"""What every dialect is given: the model's settings, its health, and the one way to ask it.

Takes the body of a request through the limits, hands its tensors to the executor, hands on outputs. V2, `/predict`,
gRPC and golden replay all come through `run`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import Any, Callable

import orjson

from intermodal_server.contract import FLOAT_DATATYPES, ModelSettings, TensorSpec
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute.interface import Executor
from intermodal_server.front.health import Health
from intermodal_server.front.limits import Body, Refusal, accepts, media_type, read_body
from intermodal_server.front.signature import matcher
from intermodal_server.front.statistics import Statistics
from intermodal_server.front.v2 import Headers
from intermodal_server.log import Log
from intermodal_server.options import VertexRoutes
from intermodal_server.tensors import Tensor

Answer = tuple[int, Headers, bytes]
Handler = Callable[[Exchange], Awaitable[Answer]]
Routes = dict[str, dict[str, Handler]]  # path -> method -> handler
JSON: Headers = [(b"content-type", b"application/json")]
RETRY = ((b"retry-after", b"1"),)
NOT_READY = (b"x-intermodal-not-ready", b"1")  # nothing was done: a gateway may ask another replica at once


def json_answer(status: int, document: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """An answer whose body is `document`."""
    return status, [*JSON, *headers], orjson.dumps(document)


NO_VERTEX = VertexRoutes()


class Service:
    """The model as the dialects see it; one for the life of the front."""

    def __init__(
        self,
        settings: ModelSettings,
        executor: Executor,
        health: Health,
        *,
        slow_body_s: float,
        log: Log,
        vertex: VertexRoutes = NO_VERTEX,
    ) -> None:
        self.settings = settings
        self.executor = executor
        self.health = health
        self.log = log
        self.vertex = vertex
        self.statistics = Statistics()
        self.statistics_of_all: Callable[[], Awaitable[dict[str, Any]]] | None = None  # where several processes answer
        self._slow_body_s = slow_body_s
        self._match = matcher(settings)
        self.floats = all(spec.datatype in FLOAT_DATATYPES for spec in settings.signature.inputs)
        self.outputs: tuple[TensorSpec, ...] = settings.signature.outputs  # or, once known, those of the first answer

    def health_body(self) -> dict[str, Any]:
        """The answer of a readiness probe."""
        self.health.workers = self.executor.workers
        return self.health.body()

    def body(self, exchange: Exchange, also: str = "") -> Awaitable[Body]:
        """The request's body, decoded, when the model may be asked at all.

        Args:
            exchange: the request.
            also: a content type that this path takes beside those that all take.

        Raises:
            Refusal: 400, 408, 413, 415, or 503 while the model is not ready.
            Disconnected: the client went away.
        """
        head, limit = exchange.head, self.settings.serve.max_request_bytes
        if head.plain and head.length <= limit and self.health.serving:
            return exchange.receive(limit, self._slow_body_s)
        if not accepts(head.headers) and (not also or media_type(head.headers) != also):
            raise Refusal(415, "this content type is not accepted; send JSON or V2 binary tensors")
        self.check_serving()
        return read_body(exchange.receive, head, limit=limit, slow_body_s=self._slow_body_s)

    def own_statistics(self) -> dict[str, Any]:
        """Triton's statistics of what is counted here."""
        return self.statistics.as_json(self.settings.name, self.settings.version)

    async def all_statistics(self) -> dict[str, Any]:
        """Triton's statistics of all processes that answer."""
        return self.own_statistics() if self.statistics_of_all is None else await self.statistics_of_all()

    def check_serving(self) -> None:
        """Refuse what comes before the model is ready.

        Raises:
            Refusal: 503.
        """
        if not self.health.serving:
            retry = ((b"retry-after", b"%d" % self.health.retry_s),)
            raise Refusal(503, f"not ready: {self.health.reason}", headers=(*retry, NOT_READY), close=True)

    def run(self, exchange: Exchange, tensors: Sequence[Tensor]) -> Awaitable[list[Tensor]]:
        """The model's outputs for a request's tensors.

        Raises:
            Refusal: with the status and text that the client gets.
        """
        exchange.inputs = inputs = self._match(tensors)
        exchange.entered_s = time.monotonic()
        answer = self.executor.infer(exchange, inputs)
        return answer if self.outputs else self._learn(answer)

    async def _learn(self, answer: Awaitable[list[Tensor]]) -> list[Tensor]:
        """The answer, and from it what the outputs are."""
        outputs = await answer
        self.outputs = tuple(_spec(output) for output in outputs)
        return outputs


def _spec(tensor: Tensor) -> TensorSpec:
    shape = tuple(-1 if axis == 0 else length for axis, length in enumerate(tensor.shape))
    return TensorSpec(tensor.name, tensor.datatype, shape)
