"""MLflow's scoring server, which is also SageMaker's container: `/invocations` with JSON or CSV, `/ping`, `/health`.

Rules, in order:
1. JSON has exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, or is a bare list of rows.
2. `NaN` and `Infinity`, which Python's own json writes, are taken here and only here.
3. `params` must be empty: the model takes none.
4. The answer is `{"predictions": …}`, or CSV when the client prefers that. Of a scikit-learn model it is what
   its `predict` returns, as MLflow and SageMaker answer; of others with one output a list, with several an object of
   columns.

Spec: MLflow, "Inference Server Specification"; SageMaker, "Custom Inference Code with Hosting Services".
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from intermodal_server import __version__
from intermodal_server.front.dialects import values
from intermodal_server.front.dialects.table import read_table, write_table
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.limits import Body, Refusal, media_type
from intermodal_server.front.names import check_names
from intermodal_server.front.service import JSON, Answer, Handler, Routes, Service, json_answer
from intermodal_server.front.v2 import Headers, decode_json
from intermodal_server.tensors import Tensor

CSV = "text/csv"
CSV_HEADERS: Headers = [(b"content-type", b"text/csv; charset=utf-8")]
TEXT: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class Invocations:
    """The handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings

    def routes(self) -> Routes:
        """Every path of both."""
        ping: dict[str, Handler] = {"GET": self._ping}
        return {
            "/invocations": {"POST": self._invoke},
            "/ping": ping,
            "/health": ping,
            "/version": {"GET": self._version},
        }

    async def _ping(self, _: Exchange) -> Answer:
        body = self._service.health_body()
        return json_answer(200 if body["ready"] else 503, body)

    async def _version(self, _: Exchange) -> Answer:
        return 200, TEXT, f"intermodal {__version__}\n".encode()

    async def _invoke(self, exchange: Exchange) -> Answer:
        exchange.protocol = "invocations"
        body = await self._service.body(exchange, also=CSV)
        kind = exchange.headers.get(b"content-type", "")
        if media_type(exchange.headers) == CSV:
            names, rows = read_table(bytes(body), self._settings, _header(kind))
            tensors = values.from_frame(names, rows, self._settings)
        else:
            await check_names(body)
            tensors = self._tensors(_decode(body))
        outputs = await self._service.run(exchange, tensors)
        chosen = values.answered(outputs, self._settings)
        if exchange.headers.get(b"accept", "").partition(";")[0].strip().lower() == CSV:
            return 200, CSV_HEADERS, write_table(chosen)
        return 200, JSON, orjson.dumps({"predictions": values.to_columns(chosen)})

    def _tensors(self, document: Any) -> list[Tensor]:
        if isinstance(document, list):
            return values.from_rows(document, self._settings)
        given = [form for form in FORMS if form in document] if isinstance(document, dict) else []
        if len(given) != 1:
            raise Refusal(400, f"the body must be an object with one of {', '.join(FORMS)}")
        if document.get("params") not in (None, {}):
            raise Refusal(400, "the model takes no params")
        content = document[given[0]]
        if given[0] == "dataframe_split":
            return values.from_frame(*_split(content), self._settings)
        if given[0] == "dataframe_records":
            return values.from_frame(*_records(content), self._settings)
        if given[0] == "instances":
            return values.from_rows(content, self._settings)
        return values.from_inputs(content, self._settings)


def _header(kind: str) -> str:
    for parameter in kind.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "header":
            return value.strip().strip('"').lower()
    return ""


def _decode(body: Body) -> Any:
    try:
        return decode_json(body)
    except Refusal:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
        try:
            return json.loads(body, parse_constant=lambda name: None if name == "NaN" else float(name))
        except (ValueError, RecursionError):
            pass
        raise


def _split(content: Any) -> tuple[list[str] | None, list[Any]]:
    rows = content.get("data") if isinstance(content, dict) else None
    names = content.get("columns") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise Refusal(400, "dataframe_split must hold data, a list of rows, and columns, their names")
    if names is not None and (not isinstance(names, list) or not all(type(name) in (str, int) for name in names)):
        raise Refusal(400, "columns must be a list of names")
    return None if names is None else [str(name) for name in names], rows


def _records(content: Any) -> tuple[list[str], list[Any]]:
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) for row in content):
        raise Refusal(400, "dataframe_records must be a list of objects, one a row")
    names = list(content[0])
    if any(set(row) != set(names) for row in content):
        raise Refusal(400, "every record must have the same columns")
    return names, [[row[name] for name in names] for row in content]


def routes(service: Service) -> Routes:
    """Every path of MLflow's scoring server and of SageMaker's container."""
    return Invocations(service).routes()
