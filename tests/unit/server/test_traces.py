"""Traces from a running server to a real collector over HTTP, read back through the official OTLP messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.collector import Collector, collect
from support.exposed import read_metrics, read_traces
from support.serving import Reply, Served, echo_root, infer_body, serve

from intermodal_server.front.observe.trace.context import Context, Sampler, begin, parse_parent
from intermodal_server.front.observe.trace.otlp import Finished, body
from intermodal_server.front.observe.trace.settings import TraceSettings, read_settings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "20"}


def to(collector: Collector, **more: str) -> dict[str, str]:
    return {**FAST, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", **more}


def ask(server: Served, value: float = 1.0, **headers: str) -> Reply:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return server.request("POST", "/v2/models/echo/infer", infer_body([value]), named)


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: next(iter(item["value"].values())) for item in span.get("attributes", [])}


def servers(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [span for span in spans if span["kind"] in (2, "SPAN_KIND_SERVER")]


def test_a_request_is_a_span_of_its_callers_trace(tmp_path: Path) -> None:
    late = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}  # so that the end of the server is what sends
    with collect() as collector:
        attributes_given = to(collector, OTEL_RESOURCE_ATTRIBUTES="team=a%20b,k=v", **late)
        with serve(echo_root(tmp_path), exact=attributes_given) as server:
            reply = ask(server, traceparent=PARENT, tracestate="vendor=1", x_request_id="mine")
            assert ask(server, 444.0, traceparent=PARENT, x_request_id="bad").status == 500
            assert server.request("GET", "/v2/models/echo").headers["traceresponse"].startswith("00-")
            assert server.stop() == 0
            line = next(line for line in server.log() if line["message"] == "request" and line["status"] == 500)
            assert (line["trace"], line["request"]) == (TRACE, "bad")
            assert any(line["part"] == "worker-1" and line.get("request") == "bad" for line in server.log())
        assert {head[0] for head in collector.heads} == {"/v1/traces"}
        messages = read_traces(collector.bodies)
        resource = attributes(messages[0]["resource_spans"][0]["resource"])
        assert (resource["service.name"], resource["service.version"], resource["team"]) == ("echo", "1", "a b")
        good, bad = servers(collector.spans)
        assert (good["traceId"], good["parentSpanId"], good["traceState"]) == (TRACE, SPAN, "vendor=1")
        assert good["name"] == "POST /v2/models/echo/infer"
        assert reply.headers["traceresponse"] == f"00-{TRACE}-{good['spanId']}-01"
        assert int(good["startTimeUnixNano"]) < int(good["endTimeUnixNano"])
        about = attributes(good)
        assert about["intermodal.request_id"] == "mine" == reply.headers["x-request-id"]
        assert (about["http.response.status_code"], about["intermodal.traffic"]) == ("200", "live")
        assert "status" not in good
        assert (bad["status"], attributes(bad)["error.type"]) == ({"code": 2}, "500")


def test_a_trace_begins_here_when_nobody_brings_one(tmp_path: Path) -> None:
    with collect() as collector, serve(echo_root(tmp_path), exact=to(collector)) as server:
        replies = [ask(server), ask(server, traceparent="00-nonsense-01"), ask(server, 444.0)]
        spans = servers(collector.wait(3))
        assert len({span["traceId"] for span in spans}) == 3
        assert all("parentSpanId" not in span for span in spans)
        for reply, span in zip(replies, spans, strict=True):
            assert reply.headers["traceresponse"] == f"00-{span['traceId']}-{span['spanId']}-01"
            assert reply.headers["x-request-id"] == f"{span['traceId']}-{span['spanId']}"
        failed = [line["request"] for line in server.log() if line["part"] == "worker-1" and "request" in line]
        assert failed == [replies[2].headers["x-request-id"]]


def test_waiting_and_computing_are_children_of_the_request() -> None:
    context = Context(TRACE, SPAN, "", True)
    began = 1_700_000_000_000_000_000
    one = Finished(context, "POST", "/predict", "predict", 200, "r", "live", began, 0.5, began + 100, 0.125, 0.25, 3, 8)
    (message,) = read_traces([json.loads(body([one], {}, "1.0"))])
    request, queue, compute = message["resource_spans"][0]["scope_spans"][0]["spans"]
    assert {span["trace_id"] for span in (request, queue, compute)} == {request["trace_id"]}
    assert queue["parent_span_id"] == compute["parent_span_id"] == request["span_id"]
    assert len({span["span_id"] for span in (request, queue, compute)}) == 3
    assert (queue["name"], compute["name"]) == ("queue", "compute")
    assert int(queue["start_time_unix_nano"]) == began + 100
    assert queue["end_time_unix_nano"] == compute["start_time_unix_nano"] == str(began + 100 + 125_000_000)
    assert compute["end_time_unix_nano"] == str(began + 100 + 375_000_000)
    assert (attributes(request)["intermodal.rows"], attributes(request)["intermodal.batch_rows"]) == ("3", "8")


def test_callers_decide_and_the_rest_is_sampled(tmp_path: Path) -> None:
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    with collect() as collector, serve(echo_root(tmp_path), exact=to(collector, **sampler)) as server:
        assert ask(server).headers["traceresponse"].endswith("-00")
        assert ask(server, traceparent=PARENT[:-2] + "00").headers["traceresponse"].endswith("-00")
        assert ask(server, traceparent=PARENT).headers["traceresponse"].endswith("-01")
        assert [span["traceId"] for span in servers(collector.wait(1))] == [TRACE]


def test_a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not(tmp_path: Path) -> None:
    with collect(503, 429, 200, 400) as collector, serve(echo_root(tmp_path), exact=to(collector)) as server:
        ask(server, traceparent=PARENT)
        assert len(servers(collector.wait(1))) == 1
        assert len(collector.heads) == 3
        ask(server)
        server.wait(lambda: _traced(server, "dropped") == 1, "the refused span to be counted")
        ask(server)
        collector.wait(2)
        server.wait(lambda: _traced(server, "sent") == 2, "the others to be counted")
        warnings = [line for line in server.log() if line["message"] == "traces cannot be sent"]
        assert [line["reason"] for line in warnings] == ["the collector answers 503"]  # one a minute


def _traced(server: Served, result: str) -> float:
    text = server.watched("/metrics").body.decode()
    return read_metrics(text).value("intermodal_traced_requests_total", result=result)


def test_nobody_waits_for_a_collector_that_is_not_there(tmp_path: Path) -> None:
    variables = {
        **FAST,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@127.0.0.1:9",
        "OTEL_BSP_MAX_QUEUE_SIZE": "3",
    }
    with serve(echo_root(tmp_path), exact={**variables, "OTEL_EXPORTER_OTLP_HEADERS": "k=hidden"}) as server:
        for _ in range(60):
            assert ask(server).status == 200
        assert _traced(server, "dropped") >= 50  # all but those in the queue and under way, though none was given up
        assert server.stop() == 0
        text = server.log_path.read_text()
        assert "traces cannot be sent" in text
        assert "secret" not in text and "hidden" not in text


def test_headers_compression_and_a_path_of_its_own(tmp_path: Path) -> None:
    with collect() as collector:
        variables = to(
            collector,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://127.0.0.1:{collector.port}/custom",
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20abc,x-team=a",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
            OTEL_SERVICE_NAME="named",
        )
        with serve(echo_root(tmp_path), exact=variables) as server:
            ask(server)
            collector.wait(1)
        path, headers = collector.heads[0]
        assert (path, headers["authorization"], headers["x-team"]) == ("/custom", "Bearer abc", "a")
        assert headers["content-encoding"] == "gzip"
        (message, *_) = read_traces(collector.bodies)
        assert attributes(message["resource_spans"][0]["resource"])["service.name"] == "named"


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_without_an_endpoint_nothing_of_it_is_loaded(tmp_path: Path, variables: dict[str, str]) -> None:
    with collect() as collector:
        given = to(collector, **variables) if variables else {}
        with serve(echo_root(tmp_path), exact=given) as server:
            reply = ask(server, traceparent=PARENT)
            assert "traceresponse" not in reply.headers
            (front,) = server.children("front")
            assert len(list(Path(f"/proc/{front}/task").iterdir())) == 1  # no thread
            assert b"traced" not in server.watched("/metrics").body
        assert not collector.heads


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PARENT, (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", (TRACE, SPAN, False)),
        (f"cc-{TRACE}-{SPAN}-01-more", (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (PARENT.upper(), None),
        (f"{PARENT} ", None),
        (f"{PARENT}\n", None),
        ("", None),
        (None, None),
    ],
)
def test_traceparent_is_read_as_w3c_wants_it(text: str | None, found: Any) -> None:
    assert parse_parent(text) == found


@pytest.mark.parametrize(
    ("name", "share", "parent", "sampled"),
    [
        ("always_on", "", False, 1024),
        ("always_off", "", True, 0),
        ("traceidratio", "0.25", True, 256),
        ("parentbased_always_on", "", None, 1024),
        ("parentbased_always_on", "", False, 0),
        ("parentbased_always_off", "", None, 0),
        ("parentbased_always_off", "", True, 1024),
        ("parentbased_traceidratio", "0.25", None, 256),
        ("parentbased_traceidratio", "0.25", True, 1024),
        ("nonsense", "", None, 1024),
        ("traceidratio", "nonsense", None, 1024),
    ],
)
def test_samplers_are_those_of_the_specification(name: str, share: str, parent: bool | None, sampled: int) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
        "OTEL_TRACES_SAMPLER": name,
        "OTEL_TRACES_SAMPLER_ARG": share,
    }
    found = read_settings(variables, {}, lambda _: None)
    assert found is not None
    spread = [number << 54 for number in range(1024)]  # trace ids at equal distances
    assert sum(found.sampler.decides(trace_id, parent) for trace_id in spread) == sampled


def test_a_trace_id_decides_alike_everywhere() -> None:
    headers = {b"traceparent": PARENT}
    decisions = {begin(headers, Sampler(0.5, parent_decides=False)).sampled for _ in range(20)}
    assert len(decisions) == 1


def test_variables_that_mean_nothing_are_told_and_not_used() -> None:
    told: list[str] = []
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/",
        "OTEL_EXPORTER_OTLP_HEADERS": "no secret here",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
        "OTEL_BSP_MAX_QUEUE_SIZE": "-5",
        "OTEL_RESOURCE_ATTRIBUTES": "a=b%0d%0ac",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    found = read_settings(variables, {"service.name": "m"}, told.append)
    assert found == TraceSettings("http://collector:4318/v1/traces", resource={"service.name": "m"})
    assert len(told) == 5
    assert not any("secret" in text for text in told)
    assert read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, {}, told.append) is None
    assert "not an http or https address" in told[-1]
