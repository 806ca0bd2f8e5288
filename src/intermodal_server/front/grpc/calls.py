"""One call over gRPC: what happens around every method, in the order in which HTTP requests meet it.

Takes calls from grpcio, hands on exchanges to the application's guards and observers, messages to the methods.

Rules, in order:
1. Guards look before the message is read: every method is served as a stream of which one message is taken, because
   grpcio reads the message of a plain method before anybody is asked.
2. A message that does not come within its time is refused; its compression is undone here, never past the limit,
   because older grpcio expands without one.
3. Every refusal is a status with the sentence that HTTP would give; what is our own fault is INTERNAL and logged.
4. A client's deadline and its cancelling end the call here too; observers are told 504 and 499.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Sequence
from typing import Any, Callable

import grpc
from google.protobuf.message import DecodeError

from intermodal_server.front.app import CLIENT_GONE, App
from intermodal_server.front.exchange import Exchange, no_body
from intermodal_server.front.grpc.health import Health
from intermodal_server.front.grpc.inference import Answerer, Inference
from intermodal_server.front.grpc.messages import HEALTH, INFERENCE, request_classes
from intermodal_server.front.grpc.wire import check_fields, check_small
from intermodal_server.front.head import Head
from intermodal_server.front.limits import Refusal, decompress
from intermodal_server.log import Log

SLOWEST_BYTES_PER_S = 1 << 20  # of the largest message: grpcio does not tell how much of one has come
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
Trailers = Sequence[tuple[str, str]]
Work = Callable[[Exchange, Any], Awaitable[Any]]


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """The handlers of every method, by path."""

    def __init__(self, app: App, log: Log, *, slow_body_s: float) -> None:
        self._app = app
        self._log = log
        self._limit = app.service.settings.serve.max_request_bytes
        self._message_s = slow_body_s + self._limit / SLOWEST_BYTES_PER_S
        inference, self.health = Inference(app.service), Health(app.service)
        requests = request_classes(INFERENCE)
        self._table = {
            f"/{INFERENCE}/{name}": self._unary(inference.paths[name], requests[name], answer)
            for name, answer in inference.methods.items()
        }
        requests = request_classes(HEALTH)
        self._table[f"/{HEALTH}/Check"] = self._unary(f"/{HEALTH}/Check", requests["Check"], self.health.check)
        self._table[f"/{HEALTH}/Watch"] = self._watch(f"/{HEALTH}/Watch", requests["Watch"])

    def service(self, handler_call_details: Any) -> Any:
        """Who answers; None is UNIMPLEMENTED."""
        return self._table.get(handler_call_details.method)

    def _unary(self, path: str, request: Any, answer: Answerer) -> Any:
        check = check_fields if path.endswith("/infer") else check_small

        async def work(exchange: Exchange, context: Any) -> bytes:
            return await answer(await self._message(context, request, check), exchange)

        async def handle(_: Any, context: Any) -> Any:
            return await self._answer(path, context, work)

        return grpc.stream_unary_rpc_method_handler(handle)

    def _watch(self, path: str, request: Any) -> Any:
        async def work(_: Exchange, context: Any) -> None:
            await self.health.watch(await self._message(context, request, check_small), context)

        async def handle(_: Any, context: Any) -> None:
            await self._answer(path, context, work)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _answer(self, path: str, context: Any, work: Work) -> Any:
        exchange = _exchange(path, context)
        try:
            self._app.admit(exchange)
            result = await work(exchange, context)
        except Refusal as refusal:
            self._app.observe(exchange, refusal.status)
            code = CODES.get(refusal.status, grpc.StatusCode.INTERNAL)
            await context.abort(code, refusal.message, (*_trailers(exchange), *_retry(refusal)))
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            self._app.observe(exchange, CLIENT_GONE if left_s is None or left_s > 0 else 504)
            raise
        except Exception as error:
            self._log.error("the front failed on a call", reason=repr(error), traceback=traceback.format_exc())
            self._app.observe(exchange, 500)
            await context.abort(grpc.StatusCode.INTERNAL, "the server failed on this request", _trailers(exchange))
        else:
            self._app.observe(exchange, 200)
            context.set_trailing_metadata(_trailers(exchange))
            return result

    async def _message(self, context: Any, request: Any, check: Callable[[bytes], None]) -> Any:
        """The call's message; `check` sees its bytes first.

        Raises:
            Refusal: 400, 408 or 413.
        """
        with _Patience(self._message_s):
            data = await context.read()
        if data is grpc.aio.EOF:
            raise Refusal(400, "the call has no message")
        encoding = _compression(data)
        if encoding:
            data = decompress(bytearray(data), encoding, self._limit)
        check(data)
        try:
            return request.FromString(data)
        except DecodeError:
            raise Refusal(400, "the message is not of its kind") from None


class _Patience:
    """Ends the wait for a message that does not come; one timer a call, where `wait_for` would take a task each."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._expired = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._expire)

    def _expire(self) -> None:
        if self._task is not None:
            self._expired = True
            self._task.cancel()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._timer.cancel()
        if self._expired:
            if self._task is not None and hasattr(self._task, "uncancel"):
                self._task.uncancel()
            raise Refusal(408, "the message came too slowly") from None


def _exchange(path: str, context: Any) -> Exchange:
    headers: dict[bytes, str] = {}
    for name, value in context.invocation_metadata():
        headers.setdefault(name.encode("ascii"), value if isinstance(value, str) else value.decode("latin-1"))
    return Exchange(Head("POST", path, headers), no_body)


def _trailers(exchange: Exchange) -> Trailers:
    found = [("x-request-id", exchange.request_id)]
    if exchange.trace is not None:
        found.append(("traceresponse", exchange.trace.response.decode("ascii")))
    return found


def _compression(data: bytes) -> str:
    """How a message was compressed, read off its first bytes: none of our messages begins like this.

    0x1f has a wire type that does not exist; 0x78 would be a field 15, which no message here has.
    """
    if data[:2] == b"\x1f\x8b":
        return "gzip"
    if data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0:
        return "deflate"
    return ""


def _retry(refusal: Refusal) -> Trailers:
    """When to try again, in the words of HTTP and in those that gRPC's own retries obey."""
    for name, value in refusal.headers:
        if name == b"retry-after" and value.isdigit():
            return (("retry-after", value.decode()), ("grpc-retry-pushback-ms", str(int(value) * 1000)))
    return ()
