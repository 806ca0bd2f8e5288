"""What a running server tells on its metrics port, read by prometheus_client: exact, bounded, and at nobody's cost."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from support.exposed import Metrics, read_metrics
from support.serving import Reply, Served, echo_root, echo_settings, infer_body, serve, write_root

from intermodal_server.contract import ModelSettings, Signature, TensorSpec

LABELS = """
class Model:
    def predict(self, x):
        if x == ["fail"]:
            raise ValueError("no")
        return {"label": x, "score": [[0.25, 0.75] for _ in x]}
"""


def labels_root(root: Path, **more: Any) -> Path:
    """A classifier whose class is what it is asked."""
    outputs = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("score", "FP64", (-1, 2)))
    signature = Signature((TensorSpec("x", "BYTES", (-1,)),), outputs)
    settings = ModelSettings("labels", "7", "predictor", "predictor", "", signature, "named", "labels:Model")
    return write_root(root, settings, app={"labels.py": LABELS}, **more)


def ask(server: Served, values: list[str], headers: dict[str, str] | None = None) -> Reply:
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [len(values)], "data": values}]}
    return server.request("POST", "/v2/models/labels/infer", body, headers)


def page(server: Served, *, openmetrics: bool = False) -> Metrics:
    accept = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.3" if openmetrics else "*/*"
    reply = server.watched("/metrics", {"accept": accept})
    wanted = "application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain; version=0.0.4"
    assert reply.headers["content-type"] == f"{wanted}; charset=utf-8"
    return read_metrics(reply.body.decode(), openmetrics=openmetrics)


def test_counts_are_exactly_those_of_the_requests(tmp_path: Path) -> None:
    golden = {
        "format": 1,
        "cases": [
            {
                "name": "one",
                "request": {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["golden"]}]},
                "response": {"outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["golden"]}]},
            }
        ],
    }
    with serve(labels_root(tmp_path, golden=golden), start_check="warn", triton_metrics=1) as server:
        probes = page(server).value("intermodal_requests_total", protocol="http", code="200")
        for values in (["cat", "dog"], ["cat"], ["cow", "cat", "cat"]):
            assert ask(server, values).status == 200
        assert ask(server, ["cat"], {"x-intermodal-golden": "1"}).status == 200
        assert ask(server, ["cat"], {"x-intermodal-revision": "2"}).status == 200
        assert ask(server, ["cat"], {"host": "labels.example.com-shadow:80"}).status == 200
        assert ask(server, ["fail"]).status == 500
        assert server.request("POST", "/v2/models/labels/infer", b"{").status == 400
        assert server.request("POST", "/predict", {"inputs": {"x": ["dog"]}}).status == 200
        assert server.request("GET", "/v2/models/nobody").status == 404
        for metrics in (page(server), page(server, openmetrics=True)):
            total = "intermodal_requests_total"
            counted = {
                (label["protocol"], label["code"], label["traffic"]): metrics.value(total, **label)
                for label in metrics.labelled(total)
                if label["code"] != "503"  # probes before it was ready
            }
            assert counted == {
                ("http", "200", "live"): probes,
                ("http", "404", "live"): 1,
                ("v2", "200", "live"): 3,
                ("v2", "200", "golden"): 1,
                ("v2", "200", "override"): 1,
                ("v2", "200", "mirror"): 1,
                ("v2", "500", "live"): 1,
                ("v2", "400", "live"): 1,
                ("predict", "200", "live"): 1,
            }
            duration = "intermodal_request_duration_seconds"
            assert metrics.value(f"{duration}_count", traffic="live") == 6
            assert metrics.value(f"{duration}_bucket", traffic="live", le="+Inf") == 6
            assert metrics.value(f"{duration}_bucket", traffic="mirror", le="63.0") == 1
            predictions = "intermodal_predictions_total"
            live = {"output": "label", "traffic": "live"}
            assert metrics.value(predictions, **live, **{"class": "cat"}) == 4
            assert metrics.value(predictions, **live, **{"class": "dog"}) == 2
            assert metrics.value(predictions, **live, **{"class": "golden"}) == 0  # of the start, before any client
            assert metrics.value(predictions, output="label", traffic="golden", **{"class": "cat"}) == 1
            assert metrics.value(predictions, output="score", traffic="live", **{"class": "1"}) == 7
            assert metrics.value("intermodal_prediction_value", output="score", traffic="live", quantile="0.5") == 0.75
            assert metrics.value("intermodal_ready") == metrics.value("intermodal_workers") == 1
            assert metrics.value("intermodal_inflight_requests") == 0
            assert metrics.value("intermodal_model_info", model="labels", version="7") == 1
            assert metrics.value("nv_inference_request_success", model="labels") == 7
            assert metrics.value("nv_inference_request_failure", model="labels") == 2
            assert metrics.value("process_resident_memory_bytes") > 1 << 20
            assert metrics.value("intermodal_worker_resident_memory_bytes", worker="1") > 1 << 20


def test_without_the_flag_there_are_no_names_of_triton(tmp_path: Path) -> None:
    with serve(labels_root(tmp_path)) as server:
        assert b"nv_" not in server.watched("/metrics").body


def test_sketches_are_one_document_for_the_judge(tmp_path: Path) -> None:
    with serve(labels_root(tmp_path)) as server:
        ask(server, ["cat", "dog", "cat"])
        ask(server, ["fail"])
        document = server.watched("/sketches").json
        assert (document["format"], document["model"], document["version"]) == (1, "labels", "7")
        live = document["requests"]["live"]
        assert live["codes"] == {"200": 1, "500": 1}
        assert sum(live["duration_s"]["counts"]) == 2
        assert len(live["duration_s"]["counts"]) == len(document["duration_edges_s"]) + 1
        label, score = document["outputs"]
        assert (label["name"], label["datatype"], label["traffic"]["live"]["classes"]) == (
            "label",
            "BYTES",
            {"cat": 2, "dog": 1},
        )
        numbers = score["traffic"]["live"]["numbers"]
        ((lower, upper, count),) = numbers["buckets"]
        assert lower <= 0.75 < upper and count == numbers["count"] == 3
        assert set(document["requests"]) == {"live"}


def test_clients_cannot_make_series(tmp_path: Path) -> None:
    with serve(labels_root(tmp_path)) as server:
        ask(server, ["cat"])
        server.request("GET", "/v2/models/nobody0")
        before = _series(server)
        for number in range(40):
            server.request("GET", f"/v2/models/nobody{number}")
            ask(server, ["cat"], {"x-request-id": f"r{number}", "host": f"h{number}", "user-agent": f"u{number}"})
        assert _series(server) == before


def _series(server: Served) -> set[str]:
    lines = server.watched("/metrics").body.decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def test_class_names_cannot_break_the_page_nor_fill_it(tmp_path: Path) -> None:
    hostile = ['"} 1\nforged_total{x="', "\\", "\n# EOF\n", "\x00", "ä", "other"]
    names = [*hostile, *(f"n{number}" for number in range(3000))]
    with serve(labels_root(tmp_path)) as server:
        for start in range(0, len(names), 1000):
            assert ask(server, names[start : start + 1000]).status == 200
        for openmetrics in (False, True):
            metrics = page(server, openmetrics=openmetrics)
            found = [label for label in metrics.labelled("intermodal_predictions_total") if label["output"] == "label"]
            assert [label["class"] for label in found] == [*names[:64], "(other)"]
            assert metrics.value("intermodal_predictions_total", **{"class": "(other)"}) == len(names) - 64
            assert not metrics.labelled("forged_total")
        counted = server.watched("/sketches").json["outputs"][0]["traffic"]["live"]
        assert list(counted["classes"]) == names[:64]
        assert counted["other"] == len(names) - 64


def test_scrapes_under_load_lose_nothing(tmp_path: Path) -> None:
    with serve(labels_root(tmp_path), workers=2) as server:
        statuses: Counter[int] = Counter()
        scraped: list[float] = []
        over = threading.Event()

        def load() -> None:
            connection = server.connection()
            body = json.dumps({"inputs": {"x": ["cat"]}}).encode()
            for _ in range(150):
                connection.request("POST", "/predict", body)
                answer = connection.getresponse()
                answer.read()
                statuses[answer.status] += 1
            connection.close()

        def scrape() -> None:
            while not over.is_set():
                for path in ("/metrics", "/sketches"):
                    reply = server.watched(path)
                    assert reply.status == 200
                scraped.append(sum(reply.json["requests"]["live"]["codes"].values()))

        clients = [threading.Thread(target=load) for _ in range(4)]
        scraper = threading.Thread(target=scrape)
        for thread in (*clients, scraper):
            thread.start()
        for thread in clients:
            thread.join()
        over.set()
        scraper.join()
        assert statuses == {200: 600}
        assert scraped == sorted(scraped)
        metrics = page(server)
        assert metrics.value("intermodal_requests_total", protocol="predict", code="200") == 600
        assert metrics.value("intermodal_predictions_total", output="label", **{"class": "cat"}) == 600


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _model_at(port: int) -> str | None:
    try:
        with urlopen(f"http://127.0.0.1:{port}/sketches", timeout=10) as answer:
            return str(json.load(answer)["model"])
    except OSError:
        return None


def test_a_taken_port_is_a_warning_and_is_tried_again(tmp_path: Path) -> None:
    port = _free_port()
    with serve(echo_root(tmp_path / "b"), metrics_port=port, wait=False) as second:
        with serve(labels_root(tmp_path / "a"), metrics_port=port) as first:
            first.wait(lambda: _model_at(port) is not None, "one of them to have the port")
            second.wait_ready()
            loser = second if _model_at(port) == "labels" else first
            loser.wait(lambda: _warned(loser, port), "the other to say that it has not")
            assert (first.infer([1], model="labels").status, second.infer([1]).status) == (400, 200)
        second.wait(lambda: _model_at(port) == "echo", "the port to pass on")


def _warned(server: Served, port: int) -> bool:
    return any(line["level"] == "warning" and line.get("address") == f"port {port}" for line in server.log())


def test_a_new_front_has_the_port_again_and_counts_from_nothing(tmp_path: Path) -> None:
    port = _free_port()
    with serve(echo_root(tmp_path), metrics_port=port) as server:
        server.infer([1])
        before = server.watched("/sketches").json
        (front,) = server.children("front")
        os.kill(front, signal.SIGKILL)
        server.wait(lambda: server.children("front") not in ([], [front]), "another front")
        server.wait_ready()
        server.wait(lambda: _model_at(port) == "echo", "its port")
        after = server.watched("/sketches").json
        assert after["instance"] != before["instance"]
        assert (before["requests"]["live"]["codes"], after["requests"]["live"]["codes"]) == ({"200": 1}, {})


def test_a_replaced_worker_is_counted_by_its_cause(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), timeout_s=2, workers=2) as server:
        total = "intermodal_worker_replacements_total"
        assert server.infer([555]).status == 504
        assert server.infer([666]).status == 500
        server.wait(lambda: page(server).total(total) == 2, "two to be counted")
        os.kill(server.children("worker")[0], signal.SIGKILL)
        server.wait(lambda: page(server).total(total) == 3, "the third to be counted")
        metrics = page(server)
        assert [metrics.value(total, reason=reason) for reason in ("exit", "crash", "hang")] == [1, 1, 1]
        server.wait(lambda: page(server).value("intermodal_workers") == 2, "the replacements")
        found = page(server).labelled("intermodal_worker_resident_memory_bytes")
        assert [label["worker"] for label in found] == ["1", "2"]


def test_no_port_unless_the_server_has_one(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), metrics_port="", metrics_socket="") as server:
        assert server.port == 0
        inodes = {
            line.split()[9]
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
            if line.split()[3] == "0A"
        }
        (front,) = server.children("front")
        opened = {os.readlink(f"/proc/{front}/fd/{fd}") for fd in os.listdir(f"/proc/{front}/fd")}
        assert not {f"socket:[{inode}]" for inode in inodes} & opened


def test_ring_keeps_the_last_predictions_by_request_id(tmp_path: Path) -> None:
    with serve(labels_root(tmp_path), ring=5) as server:
        for number in range(8):
            ask(server, [f"c{number}"], {"x-request-id": f"id-{number}"})
        ask(server, ["fail"])
        found = server.watched("/predictions").json
        assert (found["format"], found["first"], found["last"], found["next"]) == (1, 4, 8, 8)
        assert [entry["request_id"] for entry in found["predictions"]] == [f"id-{number}" for number in range(3, 8)]
        assert found["predictions"][-1]["outputs"] == [
            {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["c7"]},
            {"name": "score", "datatype": "FP64", "shape": [1, 2], "data": [0.25, 0.75]},
        ]
        assert all("inputs" not in entry for entry in found["predictions"])
        some = server.watched("/predictions?after=5&limit=2").json
        assert ([entry["number"] for entry in some["predictions"]], some["next"]) == ([6, 7], 7)
        assert server.watched("/predictions?after=8").json["predictions"] == []
        assert server.watched("/predictions?after=8").json["next"] == 8
        assert server.watched("/predictions?after=x").status == 400
        assert found["instance"] == server.watched("/sketches").json["instance"]


def test_ring_keeps_inputs_only_when_asked(tmp_path: Path) -> None:
    with serve(labels_root(tmp_path), ring=5, ring_inputs=1) as server:
        ask(server, ["in"])
        (entry,) = server.watched("/predictions").json["predictions"]
        assert entry["inputs"] == [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["in"]}]


def test_without_a_ring_there_is_no_page(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        server.infer([1])
        assert server.watched("/predictions").status == 404
        health = server.watched("/health")
        assert (health.status, health.json["ready"], health.json["workers"]) == (200, True, 1)


@pytest.mark.parametrize(("mode", "wanted"), [("errors", [500, 400, 404]), ("all", [200, 500, 400, 404]), ("off", [])])
def test_access_log_tells_what_it_is_asked_to(tmp_path: Path, mode: str, wanted: list[int]) -> None:
    with serve(echo_root(tmp_path), access_log=mode) as server:
        body = infer_body([1.0])
        server.request("POST", "/v2/models/echo/infer", body, {"x-request-id": "mine"})
        server.infer([444])
        server.infer(["x"])
        server.request("GET", "/%0a{forged}")
        lines = [line for line in server.log() if line["message"] == "request" and "/health" not in line["path"]]
        assert [line["status"] for line in lines] == wanted
        if mode == "all":
            assert (lines[0]["request"], lines[0]["protocol"], lines[0]["level"]) == ("mine", "v2", "info")
        if mode != "off":
            failed = [line["request"] for line in server.log() if line["part"] == "worker-1" and "request" in line]
            assert [line["request"] for line in lines if line["status"] == 500] == failed


RAW: list[tuple[bytes, bytes]] = [
    (b"POST /metrics HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello", b"HTTP/1.1 400 "),
    (b"DELETE /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "),
    (b"GET /metrics HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 400 "),
    (b"GET /metrics\r\n\r\n", b"HTTP/1.1 400 "),
    (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 431 "),
    (b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 400 "),
    (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
    (b"GET /sketches?" + b"&".join(b"a=%d" % n for n in range(99)) + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
    (b"HEAD /metrics HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
]


def test_the_port_answers_hostile_clients_and_the_server_goes_on(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        for sent, wanted in RAW:
            assert _raw(server, sent).startswith(wanted), sent[:40]
        assert _raw(server, RAW[-1][0]).endswith(b"\r\n\r\n")
        silent = [_metrics_connection(server) for _ in range(40)]  # more than are let in at once
        assert server.infer([2]).status == 200
        for connection in silent:
            connection.close()
        server.wait(lambda: _answers(server), "the port to answer again")
        assert not [line for line in server.log() if line["level"] == "error"]


def _answers(server: Served) -> bool:
    try:
        return server.watched("/metrics").status == 200
    except (OSError, http.client.HTTPException):
        return False


def _metrics_connection(server: Served) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(30)
    connection.connect(str(server.metrics_socket))
    return connection


def _raw(server: Served, data: bytes) -> bytes:
    with _metrics_connection(server) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def test_the_socket_is_gone_after_the_server(tmp_path: Path) -> None:
    own = tmp_path / "m"
    with serve(labels_root(tmp_path / "root"), metrics_socket=own) as server:
        server.wait(own.exists, "the socket")
        assert server.stop() == 0
        assert not own.exists()


def test_echo_counts_numbers_with_nan(tmp_path: Path) -> None:
    with serve(write_root(tmp_path, echo_settings(), app={"echo.py": _NAN})) as server:
        server.infer([1.0, 2.0, 3.0])
        numbers = server.watched("/sketches").json["outputs"][0]["traffic"]["live"]["numbers"]
        assert (numbers["count"], numbers["nan"], numbers["positive_infinity"]) == (1, 1, 1)
        assert numbers["sum"] == 5.0


_NAN = """
class Model:
    def predict(self, x):
        return {"y": [float("nan"), float("inf"), 5.0][: len(x)]}
"""
