"""The application: a table of paths, and what happens around every request.

Takes exchanges, hands on answers. The dialects fill the table when the front starts; there is one model and one
version, so every path is known then, and finding a handler is one look into a dictionary.

Rules, in order: nothing but the table exists, above all nothing that loads, unloads or fetches; probes answer from
memory and wait for nobody; guards look before the body is read; every error is `{"error": text}` without paths,
tracebacks or versions; observers are told how every request ended and can break none.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from typing import Callable

from intermodal_server.front.compress import MIN_BYTES, WINDOW_BITS, compress
from intermodal_server.front.dialects import invocations, page, predict, v1, v2, vertex
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.limits import Disconnected, Refusal
from intermodal_server.front.service import Answer, Handler, Routes, Service, json_answer
from intermodal_server.front.v2 import Headers
from intermodal_server.log import Log

Guard = Callable[[Exchange], None]  # raises Refusal
Observer = Callable[[Exchange, int], None]  # told the status; must not raise

CLIENT_GONE = 499
DIALECTS = (v2, predict, v1, invocations, page)


class App:
    """The application; one for the life of the front."""

    def __init__(
        self, service: Service, log: Log, *, guards: Sequence[Guard] = (), observers: Sequence[Observer] = ()
    ) -> None:
        self.service = service
        self._log = log
        self._guards = tuple(guards)
        self._observers = (service.statistics.observe, *observers)
        self._routes: Routes = {}
        for dialect in DIALECTS:
            self._routes.update(dialect.routes(service))
        self._routes.update(vertex.routes(service, self._routes))

    async def answer(self, exchange: Exchange) -> Answer:
        """Answer one request; its id is for whoever sends the answer.

        Raises:
            Disconnected: the client has gone.
        """
        try:
            self.admit(exchange)
            status, headers, body = await self.handler(exchange)(exchange)
        except Refusal as refusal:
            extra = [*refusal.headers, *([(b"connection", b"close")] if refusal.close else [])]
            status, headers, body = json_answer(refusal.status, {"error": refusal.message}, extra)
        except (Disconnected, asyncio.CancelledError):
            self.observe(exchange, CLIENT_GONE)
            raise
        except Exception as error:  # ours, not the model's: the client learns nothing, the log everything
            self._log.error("the front failed on a request", reason=repr(error), traceback=traceback.format_exc())
            status, headers, body = json_answer(500, {"error": "the server failed on this request"})
        self.observe(exchange, status)
        if len(body) >= MIN_BYTES and exchange.headers.get(b"accept-encoding") in WINDOW_BITS:
            headers, body = await _compressed(exchange, headers, body)
        if exchange.trace is not None:
            headers = [*headers, (b"traceresponse", exchange.trace.response)]
        return status, headers, body

    def admit(self, exchange: Exchange) -> None:
        """Let every guard look, of whatever protocol the exchange is.

        Raises:
            Refusal: 401 or 429.
        """
        for guard in self._guards:
            guard(exchange)

    def observe(self, exchange: Exchange, status: int) -> None:
        """Tell the observers how it ended."""
        for observer in self._observers:
            observer(exchange, status)

    def handler(self, exchange: Exchange) -> Handler:
        """Who answers this path and method.

        Raises:
            Refusal: 404 or 405.
        """
        path, method = exchange.path, exchange.method
        methods = self._routes.get(path) or self._routes.get(path.rstrip("/"))
        if methods is None:
            raise Refusal(404, self._missing(path))
        found = methods.get("GET" if method == "HEAD" else method)
        if found is None:
            allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
            raise Refusal(405, f"this path takes {allowed}", headers=((b"allow", allowed.encode()),))
        return found

    def _missing(self, path: str) -> str:
        """Why there is nothing at `path`, in words that do not repeat it."""
        parts = path.split("/")
        settings = self.service.settings
        if parts[1:3] in (["v2", "models"], ["v1", "models"]) and len(parts) > 3:
            if parts[3].partition(":")[0] != settings.name:
                return "there is no model of this name"
            if parts[4:5] == ["versions"] and len(parts) > 5 and parts[5].partition(":")[0] != settings.version:
                return "there is no such version of this model"
        return "there is nothing at this path"


async def _compressed(exchange: Exchange, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    coding = exchange.headers[b"accept-encoding"]
    packed = await compress(body, coding)
    return (headers, body) if packed is None else ([*headers, (b"content-encoding", coding.encode())], packed)


__all__ = ["Answer", "App", "Guard", "Observer"]
