"""The ring of predictions and the access log stay within their bounds, whatever comes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.head import Head
from intermodal_server.front.observe import ring as module
from intermodal_server.front.observe.access import MAX_PATH_CHARS, MAX_PER_S, AccessLog
from intermodal_server.front.observe.ring import Ring
from intermodal_server.log import Log
from intermodal_server.tensors import Tensor


def answered(data: bytes, *, datatype: str = "UINT8", rows: int | None = None) -> Exchange:
    exchange = Exchange.own("live")
    exchange.outputs = [Tensor("y", datatype, (len(data) if rows is None else rows,), data)]
    exchange.inputs = [Tensor("x", "UINT8", (2,), b"in")]
    return exchange


def page(ring: Ring, after: int = 0, limit: int = 1000) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(b"".join(ring.page("i", after, limit)))
    return document


def test_bytes_bound_the_ring_as_entries_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    ring = Ring(50, inputs=False)
    for number in range(60):
        ring.ended(answered(bytes(100)), 200)
        assert len(page(ring)["predictions"]) == min(number + 1, 10)
    for _ in range(60):
        ring.ended(answered(b"1"), 200)
    assert len(page(ring)["predictions"]) == 50


def test_inputs_count_towards_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    ring = Ring(50, inputs=True)
    for _ in range(9):
        ring.ended(answered(b"123"), 200)
    assert len(page(ring)["predictions"]) == 2


def test_a_large_entry_is_kept_without_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRY_BYTES", 100)
    ring = Ring(5, inputs=True)
    ring.ended(answered(bytes(99)), 200)
    (entry,) = page(ring)["predictions"]
    assert (entry["outputs"], "inputs" in entry) == (None, False)


def test_an_answer_is_bounded_and_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 250)
    ring = Ring(50, inputs=False)
    for _ in range(7):
        ring.ended(answered(bytes(100)), 200)
    seen, after = [], 0
    while entries := page(ring, after)["predictions"]:
        assert len(entries) <= 2
        seen += [entry["number"] for entry in entries]
        after = page(ring, after)["next"]
    assert seen == list(range(1, 8))


def test_a_view_of_a_batch_is_copied() -> None:
    ring, batch = Ring(5, inputs=False), bytearray(b"\x01\x02\x03")
    exchange = Exchange.own("live")
    exchange.outputs = [Tensor("y", "UINT8", (1,), memoryview(batch)[1:2])]
    ring.ended(exchange, 200)
    batch[1] = 9
    assert page(ring)["predictions"][0]["outputs"][0]["data"] == [2]


def test_what_is_not_text_is_base64() -> None:
    ring, data = Ring(5, inputs=False), b"\x02\0\0\0\xff\xfe"
    ring.ended(answered(data, datatype="BYTES", rows=1), 200)
    (output,) = page(ring)["predictions"][0]["outputs"]
    assert base64.b64decode(output["base64"]) == data


def test_failures_are_not_kept() -> None:
    ring = Ring(5, inputs=False)
    ring.ended(answered(b"1"), 500)
    assert page(ring) == {"format": 1, "instance": "i", "first": 1, "last": 0, "predictions": [], "next": 0}


class Written(Log):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        super().__init__("front")
        self.lines: list[dict[str, Any]] = []

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        self.lines.append({"level": level, "message": message, **fields})


def test_a_flood_of_errors_is_not_a_flood_of_lines() -> None:
    log, now = Written(), [10.0]
    access = AccessLog(log, everything=False, clock=lambda: now[0])
    for _ in range(3 * MAX_PER_S):
        access.ended(Exchange.own("live"), 400)
    assert len(log.lines) == MAX_PER_S
    now[0] = 11.0
    access.ended(Exchange.own("live"), 400)
    access.ended(Exchange.own("live"), 400)
    assert [line.get("left_out") for line in log.lines[-2:]] == [2 * MAX_PER_S, None]


def test_the_callers_trace_is_told_though_nobody_traces_here() -> None:
    log = Written()
    trace = "0af7651916cd43dd8448eb211c80319c"
    for given in (f"00-{trace}-b7ad6b7169203331-01", "nonsense\n"):
        headers = {b"traceparent": given}
        exchange = Exchange(Head("POST", "/predict", headers), Exchange.own("live").receive, protocol="predict")
        AccessLog(log, everything=False).ended(exchange, 500)
    assert [line.get("trace") for line in log.lines] == [trace, None]


def test_probes_that_wait_are_no_errors() -> None:
    log = Written()
    access = AccessLog(log, everything=False)
    probe = Exchange(Head("GET", "/v2/health/ready", {}), Exchange.own("live").receive)
    access.ended(probe, 503)
    assert log.lines == []
    asked = Exchange(Head("POST", "/" + "a" * 1000, {}), probe.receive, protocol="v2")
    access.ended(asked, 503)
    assert [(line["status"], len(line["path"])) for line in log.lines] == [(503, MAX_PATH_CHARS)]
