"""When a process of the server dies, hangs, or cannot start: only its own request is lost, and somebody is told."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from support.serving import (
    Served,
    copy_root,
    echo_root,
    echo_settings,
    infer_body,
    models_python,
    serve,
    trained,
    write_root,
)

from intermodal_server.contract import ServeSettings


def test_killed_worker_takes_only_its_request_and_is_replaced(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        (before,) = server.children("worker")
        reply = server.infer([666])
        assert (reply.status, reply.json) == (500, {"error": "the model process ended while it worked on this request"})
        assert server.infer([3]).json["outputs"][0]["data"] == [6.0]
        (after,) = server.children("worker")
        assert before != after


def test_readiness_is_false_while_the_only_worker_is_replaced(tmp_path: Path) -> None:
    slow = "import time\ntime.sleep(1)\nclass Model:\n    def predict(self, x):\n        return x\n"
    root = write_root(tmp_path, echo_settings(predictor="slow:Model"), app={"slow.py": slow})
    with serve(root) as server:
        os.kill(server.children("worker")[0], signal.SIGKILL)
        server.wait(lambda: server.ready().status == 503, "readiness to notice")
        assert server.ready().json == {"ready": False, "reason": "the model process is being replaced"}
        assert server.request("GET", "/v2/health/live").json == {"live": True}
        server.wait_ready()


def test_hung_predict_times_out_while_another_worker_answers(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), workers=2, timeout_s=3) as server:
        hung: list[int] = []
        thread = threading.Thread(target=lambda: hung.append(server.infer([555]).status))
        thread.start()
        while thread.is_alive():
            assert server.infer([4]).json["outputs"][0]["data"] == [8.0]
        assert hung == [504]
        server.wait(lambda: _starts(server) == 3, "the replacement")
        assert sum("is replaced" in line["message"] for line in server.log()) == 1


def _starts(server: Served) -> int:
    return sum(line["message"].startswith("worker-") and line["message"].endswith(" starts") for line in server.log())


def test_queued_request_waits_for_the_replacement_of_a_hung_worker(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), timeout_s=2) as server:
        thread = threading.Thread(target=server.infer, args=([555],))
        thread.start()
        server.wait(lambda: server.infer([2]).status == 200, "the replacement to answer")
        thread.join()


def test_exception_of_the_model_is_told_without_its_text(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        worker = server.children("worker")
        reply = server.request("POST", "/v2/models/echo/infer", infer_body([444]), {"x-request-id": "a-b"})
        assert (reply.status, reply.json) == (500, {"error": "the model failed on this request"})
        (line,) = [line for line in server.log() if line["message"] == "the model failed on a request"]
        assert line["request"] == reply.headers["x-request-id"] == "a-b" and "secret text" in line["traceback"]
        assert server.children("worker") == worker


def test_request_id_that_could_forge_a_log_line_is_replaced(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        for given in ("x" * 129, "caf\u00e9", 'a"\tb'):
            reply = server.request("POST", "/v2/models/echo/infer", infer_body([1]), {"x-request-id": given})
            assert reply.status == 200 and reply.headers["x-request-id"] not in ("", given)


def test_hung_front_is_killed_and_replaced_without_reloading_the_model(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), hang_s=1) as server:
        front, worker = server.children("front"), server.children("worker")
        os.kill(front[0], signal.SIGSTOP)
        reply = server.infer([5])  # waits in the backlog that both fronts share, and is not refused
        assert reply.status in (200, 503)
        assert server.children("front") != front
        server.wait_ready()
        assert server.infer([5]).json["outputs"][0]["data"] == [10.0]
        assert server.children("worker") == worker


def test_orphans_are_reaped(tmp_path: Path) -> None:
    forks = (
        "import os, time\nclass Model:\n    def predict(self, x):\n"
        "        if os.fork() == 0:\n"
        "            if os.fork() == 0:\n                time.sleep(0.2)\n            os._exit(0)\n"
        "        os.wait()\n        return x\n"
    )
    root = write_root(tmp_path, echo_settings(predictor="forks:Model"), app={"forks.py": forks})
    with serve(root) as server:
        assert server.request("POST", "/v2/models/echo/infer", infer_body([1])).status == 200
        assert _zombies(server.process.pid) == []


def _zombies(parent: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            if rest.split()[:2] == ["Z", str(parent)]:
                found.append(name)
    return found


def _gives_up(server: Served) -> str:
    """The reason on the probe while the server lingers; it ends with status 1."""
    reasons: list[str] = []

    def failed() -> bool:
        reply = server.ready()
        if reply is not None and reply.status == 503 and reply.json["reason"].startswith("failed"):
            reasons.append(reply.json["reason"])
        return server.process.poll() is not None

    server.wait(failed, "the server to give up")
    assert server.process.returncode == 1
    assert reasons, "the reason never stood on the probe"
    return reasons[-1]


def test_worker_that_cannot_import_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    root = write_root(tmp_path, echo_settings(), app={"echo.py": "import a_package_that_is_not_there\n"})
    with serve(root, wait=False, linger_s=1) as server:
        assert "a_package_that_is_not_there" in _gives_up(server)
        assert any(line["message"] == "the server gives up" for line in server.log())


def test_worker_that_dies_at_every_start_ends_the_server(tmp_path: Path) -> None:
    root = write_root(tmp_path, echo_settings(), app={"echo.py": "import os\nos._exit(7)\n"})
    with serve(root, wait=False, linger_s=1) as server:
        assert _gives_up(server) == "failed: worker-1 ended 3 times while it started (status 7)"


def test_model_changed_by_one_byte_is_refused_by_name(tmp_path: Path) -> None:
    root = copy_root(trained("digits"), tmp_path / "root")
    artifact = root / "model" / "model.joblib"
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    with serve(root, worker=models_python(), wait=False, linger_s=1) as server:
        assert "model.joblib is not the file that was locked" in _gives_up(server)


GOLDEN = {
    "format": 1,
    "recorded_in": "training",
    "environment": {},
    "cases": [
        {"name": "right", "request": infer_body([1]), "response": {"outputs": [
            {"name": "y", "datatype": "FP64", "shape": [1], "data": [2.0]}]}},
        {"name": "wrong", "request": infer_body([1, 2]), "response": {"outputs": [
            {"name": "y", "datatype": "FP64", "shape": [2], "data": [2.0, 4.5]}]}},
    ],
}  # fmt: skip


def test_wrong_golden_case_keeps_the_server_from_being_ready(tmp_path: Path) -> None:
    root = echo_root(tmp_path)
    write_root(root, echo_settings(), golden=GOLDEN)
    with serve(root, wait=False, linger_s=1) as server:
        reason = _gives_up(server)
        assert "1 of 2 golden cases differ" in reason
        assert "case 'wrong', output 'y' at [1]: expected 4.5, got 4.0 (off by 0.5, relative 0.111)" in reason
        assert server.process.returncode == 1


@pytest.mark.parametrize("mode", ["warn", "off"])
def test_wrong_golden_case_is_let_through_when_told(tmp_path: Path, mode: str) -> None:
    root = echo_root(tmp_path)
    write_root(root, echo_settings(), golden=GOLDEN)
    with serve(root, start_check=mode) as server:
        assert server.infer([1]).status == 200
        logged = [line for line in server.log() if line["message"].startswith("the golden cases are not answered")]
        assert len(logged) == (1 if mode == "warn" else 0)


def test_not_ready_and_no_answers_before_the_golden_replay(tmp_path: Path) -> None:
    slow = (
        "import time\nclass Model:\n    def predict(self, x):\n"
        "        time.sleep(1)\n        return {'y': [2.0 * v for v in x]}\n"
    )
    golden = {**GOLDEN, "cases": GOLDEN["cases"][:1]}
    root = write_root(tmp_path, echo_settings(predictor="slow:Model"), app={"slow.py": slow}, golden=golden)
    with serve(root, wait=False) as server:
        seen: set[str] = set()

        def checking() -> bool:
            reply = server.ready()
            seen.add(reply.json.get("reason", "ready") if reply is not None else "")
            return "checking: golden case 1 of 1" in seen

        server.wait(checking, "the replay")
        assert "ready" not in seen
        assert server.infer([1]).status == 503
        server.wait_ready()
        assert server.infer([1]).status == 200


def test_damaged_golden_file_is_said(tmp_path: Path) -> None:
    root = echo_root(tmp_path)
    write_root(root, echo_settings(), golden={"format": 99, "cases": []})
    with serve(root, wait=False, linger_s=1) as server:
        assert "another format" in _gives_up(server)


def test_sigterm_under_load_loses_no_request(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), drain_s=0.7) as server:
        wrong: list[object] = []
        answered: list[int] = []
        stop = threading.Event()

        def caller() -> None:
            """A client behind a gateway: keeps its connection, and stops when readiness is gone."""
            connection = server.connection()
            while not stop.is_set():
                try:
                    connection.request("POST", "/v2/models/echo/infer", body=b'{"inputs":[{"name":"x","datatype":'
                                       b'"FP64","shape":[1],"data":[1]}]}')  # fmt: skip
                    reply = connection.getresponse()
                    if reply.status != 200 or b'"data":[2.0]' not in reply.read():
                        wrong.append(reply.status)
                    answered.append(1)
                except OSError as error:
                    wrong.append(error)
                    return
            connection.close()

        threads = [threading.Thread(target=caller) for _ in range(8)]
        for thread in threads:
            thread.start()
        server.wait(lambda: len(answered) > 100, "load")
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: server.ready().status == 503, "readiness to go")
        at_term = len(answered)
        assert server.request("GET", "/v2/health/live").status == 200
        server.wait(lambda: len(answered) > at_term + 50, "requests served while draining")
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert server.process.wait(30) == 0


def test_drain_finishes_what_runs_and_closes_idle_connections(tmp_path: Path) -> None:
    slow = "import time\nclass Model:\n    def predict(self, x):\n        time.sleep(1.5)\n        return {'y': x}\n"
    root = write_root(tmp_path, echo_settings(predictor="slow:Model"), app={"slow.py": slow})
    with serve(root, drain_s=0.2) as server:
        idle = server.connection()
        idle.request("GET", "/v2/health/live")
        assert idle.getresponse().read() == b'{"live":true}'
        replies: list[object] = []

        def ask() -> None:
            reply = server.infer([7])
            replies.append((reply.status, reply.headers.get("connection")))

        thread = threading.Thread(target=ask)
        thread.start()
        server.wait(lambda: bool(server.children("worker")), "the worker")
        threading.Event().wait(0.3)
        assert server.stop() == 0
        thread.join()
        assert replies == [(200, "close")]
        assert idle.sock.recv(1) == b""


def test_sigterm_while_loading_ends_at_once_with_status_0(tmp_path: Path) -> None:
    root = write_root(tmp_path, echo_settings(), app={"echo.py": "import time\ntime.sleep(600)\n"})
    with serve(root, wait=False, drain_s=30) as server:
        server.wait(lambda: server.ready() is not None, "the front")
        assert server.ready().json == {"ready": False, "reason": "loading"}
        refused = server.infer([7])
        assert (refused.status, refused.headers["x-intermodal-not-ready"]) == (503, "1")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("variables", "status", "said"),
    [
        ({"timeout_s": "soon"}, 2, "INTERMODAL_TIMEOUT_S is 'soon'"),
        ({"socket": "/nonexistent/s"}, 3, "cannot listen on /nonexistent/s"),
        ({}, 2, "model.json"),
    ],
)
def test_wrong_start_is_said_in_one_line(tmp_path: Path, variables: dict[str, str], status: int, said: str) -> None:
    root = echo_root(tmp_path) if variables else tmp_path
    with serve(root, wait=False, **variables) as server:
        assert server.process.wait(30) == status
        (line,) = server.log()
        assert said in str(line)


def test_taken_port_is_said(tmp_path: Path) -> None:
    with (
        serve(echo_root(tmp_path), tcp=True) as first,
        serve(tmp_path, wait=False, port=first.port) as second,
    ):
        assert second.process.wait(30) == 3
        assert f"port {first.port}" in second.log()[0]["reason"]


def test_serve_settings_of_the_model_count_and_variables_win(tmp_path: Path) -> None:
    root = echo_root(tmp_path, serve=ServeSettings(workers=2, timeout_s=7.0))
    with serve(root) as server:
        assert len(server.children("worker")) == 2
    with serve(root, workers=1) as server:
        assert len(server.children("worker")) == 1
