"""Real servers in which several processes answer: connections are shared, numbers whole, deaths a process's own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from support.collector import collect
from support.exposed import read_metrics
from support.processes import ask, connected, messages, wait_for_processes, who_root
from support.serving import PATIENCE_S, Served, infer_body, serve

ALONE = """
import os
class Model:
    def load(self, folder):
        self.lock = os.open({path!r}, os.O_CREAT | os.O_EXCL)
    def predict(self, x):
        return {{"y": x}}
"""


def answered(server: Served) -> float:
    """How many requests to the model the metrics tell of."""
    page = read_metrics(server.watched("/metrics").body.decode(), openmetrics=False)
    return page.value("intermodal_requests_total", protocol="v2", code="200", traffic="live")


def test_connections_are_shared_and_every_request_is_counted_once(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        connections = [server.connection() for _ in range(32)]
        for connection in connections:
            stack.callback(connection.close)
            connection.connect()
        pids = Counter(ask(connection) for connection in connections)
        assert set(pids) == {front, twin}
        assert 14 <= pids[front] <= 18, pids
        for _ in range(20):
            for connection in connections:
                ask(connection)
        assert answered(server) == 32 * 21
        for connection in connections:  # also where a twin is asked
            connection.request("GET", "/v2/models/echo/stats")
            stats = json.loads(connection.getresponse().read())["model_stats"][0]
            assert stats["inference_count"] == stats["inference_stats"]["success"]["count"] == 32 * 21
        sketches = server.watched("/sketches").json
        assert sketches["outputs"][0]["traffic"]["live"]["rows"] == 32 * 21
        assert sketches["requests"]["live"]["codes"] == {"200": 32 * 21}
        for connection in connections[8:]:
            connection.close()
        server.wait(lambda: open_sockets(front) + open_sockets(twin) < 40, "their ends")
        assert server.stop() == 0


def test_spans_and_descriptors_of_all_processes_are_counted(tmp_path: Path) -> None:
    with collect() as collector:
        traces = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }
        with serve(who_root(tmp_path), mode="inline", processes=2, exact=traces) as server, ExitStack() as stack:
            wait_for_processes(server)
            pids = server.children("front") + server.children("twin")
            asked = []
            for pid in pids:
                connection = connected(server, stack, pid)
                asked += [ask(connection) for _ in range(5)]
            assert len(set(asked)) == 2

            def sent() -> bool:
                text = server.watched("/metrics").body.decode()
                counted = read_metrics(text).value("intermodal_traced_requests_total", result="sent")
                return counted == answered(server) >= 10

            server.wait(sent, "all spans to be counted")
            page = read_metrics(server.watched("/metrics").body.decode())
            descriptors = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
            assert min(descriptors) > 4
            assert abs(page.value("process_open_fds") - sum(descriptors)) <= 3  # of the page itself and its connection
            assert server.stop() == 0


def test_clients_who_were_there_before_the_twin_are_shared_when_it_comes(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        os.kill(twin, signal.SIGKILL)
        server.wait(lambda: twin not in server.children("twin"), "its end")
        connections = [server.connection() for _ in range(16)]
        before = Counter()
        for connection in connections:
            stack.callback(connection.close)
            before[ask(connection)] += 1
        wait_for_processes(server)
        for _ in range(2):  # the answer that says close, and one on the new connection
            after = Counter(ask(connection) for connection in connections)
        assert 7 <= after[front] <= 9, (before, after)
        assert sum(after.values()) == 16


def open_sockets(pid: int) -> int:
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return found


def test_a_twin_that_is_killed_costs_its_own_clients_alone_and_is_replaced(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        here, there = connected(server, stack, front), connected(server, stack, twin)
        for _ in range(10):
            ask(there)
        before = answered(server)
        os.kill(twin, signal.SIGKILL)
        for _ in range(20):
            ask(here)
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(there)
        server.wait(lambda: server.children("twin") not in ([], [twin]), "another twin")
        wait_for_processes(server)
        assert answered(server) == before + 20
        assert server.ready().status == 200
        connected(server, stack, server.children("twin")[0])
        assert server.children("front") == [front]
        page = read_metrics(server.watched("/metrics").body.decode(), openmetrics=False)
        assert page.value("intermodal_worker_replacements_total", reason="crash") == 1


def test_a_front_that_is_killed_takes_its_twins_along_and_both_come_again(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        there = connected(server, stack, twin)
        os.kill(front, signal.SIGKILL)
        assert ask(there) == twin  # it finishes what it has
        server.wait(lambda: twin not in server.children("twin"), "the old twin's end")
        wait_for_processes(server)
        assert ask(connected(server, stack, server.children("twin")[0])) not in (front, twin)
        assert not [line for line in server.log() if line["message"] == "the circuit is open"]


def test_a_model_that_hangs_in_a_twin_is_ended_while_others_are_answered(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2, timeout_s=1) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        here, there = connected(server, stack, front), connected(server, stack, twin)
        there.request("POST", "/v2/models/echo/infer", json.dumps(infer_body([555])))
        end_s = time.monotonic() + PATIENCE_S
        while twin in server.children("twin"):
            assert time.monotonic() < end_s
            assert ask(here) == front
            assert server.infer([1]).status == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            there.getresponse()
        wait_for_processes(server)
        assert "twin-2 hangs and is replaced" in messages(server, "supervisor")
        page = read_metrics(server.watched("/metrics").body.decode(), openmetrics=False)
        assert page.value("intermodal_worker_replacements_total", reason="hang") == 1


def _ask_until_told_to_go(server: Served, replies: list[Any]) -> None:
    while True:
        connection = server.connection()
        try:
            connection.connect()
        except OSError:  # nobody listens any more
            return
        while True:
            try:
                connection.request("POST", "/v2/models/echo/infer", json.dumps(infer_body([5])))
                answer = connection.getresponse()
                replies.append((answer.status, bool(answer.read())))
            except (OSError, http.client.HTTPException) as error:
                replies.append(repr(error))
                return
            if answer.getheader("connection") == "close":
                connection.close()
                break


def test_a_drain_loses_no_request_of_any_process(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2, drain_s=0.3) as server, ExitStack() as stack:
        wait_for_processes(server)
        there = connected(server, stack, server.children("twin")[0])
        replies: list[list[Any]] = [[] for _ in range(12)]
        threads = [threading.Thread(target=_ask_until_told_to_go, args=(server, each)) for each in replies]
        for thread in threads:
            thread.start()
        server.wait(lambda: all(len(each) > 5 for each in replies), "load")
        there.request("POST", "/v2/models/echo/infer", json.dumps(infer_body([777])))
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert there.getresponse().status == 200  # the front has waited for it
        assert server.process.wait(PATIENCE_S) == 0, server.log_path.read_text()
        assert {reply for each in replies for reply in each} == {(200, True)}
        assert not server.children("twin") and not server.children("front")


def test_a_twin_that_cannot_load_is_done_without(tmp_path: Path) -> None:
    code = ALONE.format(path=str(tmp_path / "lock"))
    with serve(who_root(tmp_path / "root", code), mode="inline", processes=2) as server:
        what = "a twin cannot be had; the others go on without it"
        server.wait(lambda: what in messages(server, "supervisor"), "three tries")
        assert server.ready().status == 200
        end_s = time.monotonic() + 1.5  # a fourth would have started by then
        while time.monotonic() < end_s:
            assert server.infer([1]).status == 200
        assert messages(server, "supervisor").count("twin-2 starts") == 3
        assert "the circuit is open" not in messages(server, "supervisor")


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"memory_bytes": 36 << 20}, "memory does not allow more processes"),
        ({"rate_per_s": 1000}, "one process answers all requests"),
        ({"workers": 2}, "one process answers all requests"),
        ({"mode": "thread"}, "one process answers all requests"),
        ({"mode": "auto"}, "one process answers all requests"),  # nothing is measured: a worker
    ],
)
def test_where_one_process_must_do_the_log_says_why(tmp_path: Path, variables: dict[str, int], word: str) -> None:
    with serve(who_root(tmp_path), **{"mode": "inline", "processes": 3, **variables}) as server:
        server.wait(lambda: word in messages(server, "supervisor"), word)
        assert server.infer([1]).status == 200
        assert not server.children("twin")
