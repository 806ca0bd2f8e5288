"""The load generator against a real server: it keeps its rate, counts what is lost and what differs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from intermodal.errors import InputError
from intermodal.golden.cases import GoldenCase
from intermodal.rooms.check.load import Load

ANSWER = b'{"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [4]}]}'
CASE = GoldenCase(
    "two", {"id": "7", "inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]},
    {"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [4]}]},
)  # fmt: skip
OTHER = GoldenCase("three", CASE.request, {"outputs": [{**CASE.response["outputs"][0], "data": [5]}]})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    asked = 0
    paths: set[str]
    keys: set[str | None]


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            server.asked += 1
            server.paths.add(self.path)
            server.keys.add(self.headers["X-API-Key"])
            failed = server.asked % 10 == 0
            self.send_response(500 if failed else 200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.paths, server.keys = set(), set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_sends_what_was_asked_for_and_counts(server: Server) -> None:
    load = Load([CASE, OTHER], f"http://127.0.0.1:{server.server_port}/team/", "m", rate_per_s=200)
    report = load.run(seconds=0.5)
    assert report.requests == server.asked == 100
    assert server.paths == {"/team/v2/models/m/infer"}
    assert report.statuses == {"200": 90, "500": 10} and report.lost == 10
    assert 40 <= report.equal <= 50  # every other case is recorded otherwise
    assert "10 lost" in report.sentence()


def test_nobody_there_is_lost_and_not_an_end() -> None:
    report = Load([CASE], "http://127.0.0.1:1", "m", rate_per_s=50).run(seconds=0.2)
    assert report.statuses == {"none": 10} and report.lost == 10


def test_nothing_to_send_is_said() -> None:
    with pytest.raises(InputError, match="nothing to send"):
        Load([], "http://127.0.0.1:1", "m", rate_per_s=1)
    with pytest.raises(InputError, match="no address"):
        Load([CASE], "ftp://x", "m", rate_per_s=1)


def test_every_request_carries_the_key(server: Server) -> None:
    Load([CASE], f"http://127.0.0.1:{server.server_port}", "m", rate_per_s=100, api_key="k1").run(seconds=0.1)
    assert server.keys == {"k1"}
