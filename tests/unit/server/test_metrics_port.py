"""The metrics port of a running server: taken, lost with the front, abused; and what else it offers."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.labels_model import ask, labels_root
from support.serving import Served, echo_root, echo_settings, infer_body, serve, write_root


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


def test_health_says_what_readiness_says(tmp_path: Path) -> None:
    slow = "import time\ntime.sleep(2)\nclass Model:\n    def predict(self, x):\n        return x\n"
    root = write_root(tmp_path, echo_settings(predictor="slow:Model"), app={"slow.py": slow})
    with serve(root, wait=False) as server:
        server.wait(lambda: server.ready() is not None and server.metrics_socket.exists(), "the front")
        health = server.watched("/health")
        assert (health.status, health.json["ready"], health.json["reason"]) == (503, False, "loading")


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
        assert server.watched("/health").status == server.infer([2]).status == 200
        assert [connection.recv(1) for connection in silent[:9]] == [b""] * 9
        silent[-1].sendall(b"HEAD /health HTTP/1.1\r\n\r\n")
        assert silent[-1].recv(9) == b"HTTP/1.1 "
        for connection in silent:
            connection.close()
        assert not [line for line in server.log() if line["level"] == "error"]


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
