"""Finished requests as OTLP spans in JSON: one for the request, one for its waiting, one for the model's work.

Takes `Finished` values, hands on the body of an export request. Names and attributes follow OpenTelemetry's semantic
conventions for HTTP servers; what is ours begins with `intermodal.`.

Spec: OpenTelemetry, "OTLP Specification", JSON Protobuf Encoding; "Semantic Conventions for HTTP Spans".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Union

import orjson

from intermodal_server.front.observe.trace.context import Context

_INTERNAL, _SERVER = 1, 2
_ERROR = 2
_SAMPLED, _REMOTE_KNOWN, _REMOTE = 0x1, 0x100, 0x200
_MASK = (1 << 64) - 1
NS = 1_000_000_000


class Finished(NamedTuple):
    """What a span needs to know of a request; times of begin in nanoseconds since the epoch."""

    context: Context
    method: str
    path: str
    protocol: str
    status: int
    request_id: str
    traffic: str
    began_ns: int
    elapsed_s: float
    entered_ns: int  # when it began to wait for the model
    queue_s: float
    compute_s: float  # 0 when the model was not asked
    rows: int
    batch_rows: int


def body(finished: Sequence[Finished], resource: Mapping[str, str], version: str) -> bytes:
    """An export request."""
    spans = [span for one in finished for span in _spans(one)]
    scope = {"name": "intermodal", "version": version}
    document = {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": spans}],
            }
        ]
    }
    return orjson.dumps(document)


def _spans(one: Finished) -> Iterator[dict[str, Any]]:
    context = one.context
    about: dict[str, Union[str, int]] = {
        "http.request.method": one.method,
        "url.path": one.path,
        "http.route": one.path,
        "http.response.status_code": one.status,
        "intermodal.protocol": one.protocol,
        "intermodal.request_id": one.request_id,
        "intermodal.traffic": one.traffic,
    }
    if one.compute_s > 0:
        about["intermodal.rows"] = one.rows
        about["intermodal.batch_rows"] = one.batch_rows
    span = _span(context.trace_id, context.span_id, f"{one.method} {one.path}", one.began_ns, one.elapsed_s)
    span["kind"] = _SERVER
    if context.parent_id:
        span["parentSpanId"] = context.parent_id
        span["flags"] = _SAMPLED | _REMOTE_KNOWN | _REMOTE
    if context.state:
        span["traceState"] = context.state
    if one.status >= 500:
        about["error.type"] = str(one.status)
        span["status"] = {"code": _ERROR}
    span["attributes"] = _attributes(about)
    yield span
    if one.compute_s <= 0:
        return
    times = (("queue", one.entered_ns, one.queue_s), ("compute", one.entered_ns + int(one.queue_s * NS), one.compute_s))
    for place, (name, began_ns, elapsed_s) in enumerate(times, 1):
        child = _span(context.trace_id, _child_id(context.span_id, place), name, began_ns, elapsed_s)
        child["kind"] = _INTERNAL
        child["parentSpanId"] = context.span_id
        yield child


def _span(trace_id: str, span_id: str, name: str, began_ns: int, elapsed_s: float) -> dict[str, Any]:
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "name": name,
        "flags": _SAMPLED | _REMOTE_KNOWN,
        "startTimeUnixNano": str(began_ns),
        "endTimeUnixNano": str(began_ns + int(elapsed_s * NS)),
    }


def _child_id(span_id: str, place: int) -> str:
    """An id that is as random as its parent's and costs no new draw: odd multipliers permute 64-bit numbers."""
    return f"{(int(span_id, 16) * 0x9E3779B97F4A7C15 + place) & _MASK or 1:016x}"


def _attributes(values: Mapping[str, Union[str, int]]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
    ]
