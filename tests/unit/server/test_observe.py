"""What a running server tells on its metrics port, read by prometheus_client: exact, bounded, and at nobody's cost."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from support.envs import CHECKOUT
from support.labels_model import ask, labels_root, page
from support.serving import Served, echo_root, echo_settings, serve, write_root

from intermodal_server.front.observe.instruments import replacement_reason


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
    with serve(labels_root(tmp_path, golden=golden), mode="workers", start_check="warn", triton_metrics=1) as server:
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


def test_the_page_of_the_documents_names_every_metric_with_its_labels(tmp_path: Path) -> None:
    text = (CHECKOUT / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| `((?:intermodal|process|nv)_\w+)` \| (\w+) \| ([\w, ]*) ?\|", text, re.MULTILINE)
    kinds = {name: kind for name, kind, _ in rows}
    labels = {name: {label.strip() for label in listed.split(",")} - {""} for name, _, listed in rows}
    triton = set(re.findall(r"^\| `(nv_\w+)` \|", text, re.MULTILINE))
    with serve(
        labels_root(tmp_path), triton_metrics=1, exact={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:9"}
    ) as server:
        ask(server, ["cat"])
        lines = server.watched("/metrics").body.decode().splitlines()
        told = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
        assert {name: kind for name, kind in told.items() if name not in triton} == kinds
        assert triton <= set(told)
        found = page(server)
        for name, wanted in labels.items():
            base = name if found.labelled(name) or kinds[name] != "histogram" else f"{name}_count"
            for sample in found.labelled(base):
                assert set(sample) == wanted, name


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


@pytest.mark.parametrize(
    ("how", "why", "reason"),
    [
        ("signal SIGKILL", "out of memory", "memory"),
        ("signal SIGKILL", "memory", "memory"),
        ("signal SIGKILL; the kernel killed a process for want of memory", "", "memory"),
        ("signal SIGKILL", "no answer within 3 s", "hang"),
        ("signal SIGSEGV", "it broke off: 0 bytes read", "crash"),
        ("status 9", "", "exit"),
        ("whatever", "a text of any length" * 100, "other"),
    ],
)
def test_causes_are_few(how: str, why: str, reason: str) -> None:
    assert replacement_reason(how, why) == reason


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


def test_echo_counts_numbers_with_nan(tmp_path: Path) -> None:
    with serve(write_root(tmp_path, echo_settings(), app={"echo.py": _NAN})) as server:
        server.infer([1.0, 2.0, 3.0])
        numbers = server.watched("/sketches").json["outputs"][0]["traffic"]["live"]["numbers"]
        assert (numbers["count"], numbers["nan"], numbers["positive_infinity"]) == (1, 1, 1)
        assert numbers["sum"] == 5.0


def test_the_judge_is_told_when_counts_have_moved(tmp_path: Path) -> None:
    wide = "class Model:\n    def predict(self, x):\n        return {'y': [2.0 ** v for v in x]}\n"
    with serve(write_root(tmp_path, echo_settings(), app={"echo.py": wide})) as server:
        server.infer([1.0])
        before = server.watched("/sketches").json["instance"]
        for start in range(-500, 500, 10):
            server.infer([start + part / 7 for part in range(70)])
        assert server.watched("/sketches").json["instance"].startswith(f"{before}-")


_NAN = """
class Model:
    def predict(self, x):
        return {"y": [float("nan"), float("inf"), 5.0][: len(x)]}
"""
