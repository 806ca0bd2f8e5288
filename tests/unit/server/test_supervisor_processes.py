"""Real servers whose front or model misbehaves: probes stay true, requests wait, nothing is left over."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.serving import Served, echo_root, echo_settings, infer_body, serve, write_root


def root_of(tmp_path: Path, code: str) -> Path:
    return write_root(tmp_path, echo_settings(predictor="model:Model"), app={"model.py": code})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def messages(server: Served) -> list[str]:
    return [line["message"] for line in server.log()]


def test_requests_wait_while_the_front_is_replaced_and_probes_do_not(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        for _ in range(3):
            _kill_the_front_under_load(server)
            server.wait_ready()


def _kill_the_front_under_load(server: Served) -> None:
    (front,) = server.children("front")
    replies: list[int] = []
    os.kill(front, signal.SIGKILL)
    threads = [threading.Thread(target=lambda: replies.append(server.infer([1]).status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    server.wait(lambda: front not in server.children("front"), "its end")
    live = server.request("GET", "/v2/health/live")
    assert (live.status, live.json) == (200, {"live": True})
    for thread in threads:
        thread.join()
    assert replies == [200] * 4


def test_a_new_front_takes_no_requests_before_its_golden_cases_are_replayed(tmp_path: Path) -> None:
    slow = (
        "import time\nclass Model:\n    def predict(self, x):\n"
        "        time.sleep(0.7)\n        return {'y': [2.0 * v for v in x]}\n"
    )
    request = infer_body([1])
    response = {"outputs": [{"name": "y", "datatype": "FP64", "shape": [1], "data": [2.0]}]}
    golden = {
        "format": 1,
        "recorded_in": "training",
        "environment": {},
        "cases": [{"name": "one", "request": request, "response": response}],
    }
    root = write_root(tmp_path, echo_settings(predictor="model:Model"), app={"model.py": slow}, golden=golden)
    with serve(root) as server:
        os.kill(server.children("front")[0], signal.SIGKILL)
        statuses = [server.infer([3]).status for _ in range(2)]
        assert statuses == [200, 200]


def test_a_front_that_does_not_answer_is_said_and_may_come_back(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), hang_s=60) as server:
        (front,) = server.children("front")
        os.kill(front, signal.SIGSTOP)
        ready = server.ready()  # waits in the backlog until the silence is noticed
        assert ready is not None
        assert (ready.status, ready.json) == (503, {"ready": False, "reason": "the front does not answer"})
        assert server.request("GET", "/v2/health/live").status == 200
        replies: list[object] = []
        thread = threading.Thread(target=lambda: replies.append(server.infer([4]).json["outputs"][0]["data"]))
        thread.start()
        server.wait(lambda: server.ready().status == 503, "the stand-in to go on")
        os.kill(front, signal.SIGCONT)
        thread.join()
        assert replies == [[8.0]]
        assert server.children("front") == [front]


CURSED = """
import os
class Model:
    def predict(self, x):
        if not os.path.exists({cure!r}): os._exit(3)
        return {{"y": [value * 2 for value in x]}}
"""


def test_a_model_that_keeps_dying_opens_the_circuit_and_good_answers_close_it(tmp_path: Path) -> None:
    cure = tmp_path / "cure"
    with serve(root_of(tmp_path, CURSED.format(cure=str(cure)))) as server:
        statuses = []
        reply = server.infer([1])
        while reply.status == 500:
            statuses.append(reply.status)
            reply = server.infer([1])
        assert len(statuses) == 5
        assert reply.status == 503
        assert "the model keeps dying (last: status 3)" in reply.json["error"]
        assert int(reply.headers["retry-after"]) >= 1
        ready = server.ready()
        assert ready.status == 503 and "keeps dying" in ready.json["reason"]
        assert server.request("GET", "/v2/health/live").status == 200
        server.wait_ready()  # half open: a model is there again
        assert server.infer([1]).status == 500  # it dies again, and the pause doubles
        server.wait(lambda: "keeps dying" in str(server.ready().json), "the circuit to open again")
        _nobody_starts_while_it_is_open(server)
        pauses = [round(line["pause_s"]) for line in server.log() if line["message"] == "the circuit is open"]
        assert pauses == [1, 2]
        cure.touch()
        server.wait_ready()
        for _ in range(5):
            assert server.infer([1]).json["outputs"][0]["data"] == [2.0]
        server.wait(lambda: "the circuit is closed" in messages(server), "the circuit to close")


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_front_that_its_model_keeps_killing_opens_the_circuit_too(tmp_path: Path, mode: str) -> None:
    cure = tmp_path / "cure"
    with serve(root_of(tmp_path, CURSED.format(cure=str(cure))), mode=mode) as server:
        for _ in range(5):
            with pytest.raises((OSError, http.client.HTTPException)):
                server.infer([1])
        reply = server.infer([1])
        assert reply.status == 503 and "the model keeps dying (last: status 3)" in reply.json["error"]
        assert int(reply.headers["retry-after"]) >= 1
        ready = server.ready()
        assert ready.status == 503 and "keeps dying" in ready.json["reason"]
        live = server.request("GET", "/v2/health/live")
        assert (live.status, live.json) == (200, {"live": True})
        cure.touch()
        server.wait_ready()
        for _ in range(5):
            assert server.infer([1]).status == 200
        server.wait(lambda: "the circuit is closed" in messages(server), "the circuit to close")


def _nobody_starts_while_it_is_open(server: Served) -> None:
    state = ""
    for message in messages(server):
        if message.startswith("the circuit is "):
            state = message[len("the circuit is ") :]
        assert not (state == "open" and message.startswith("worker-") and message.endswith(" starts"))


FORKS = """
import os, subprocess, sys, time
DAEMON = '''
import os, time
if os.fork(): os._exit(0)
open({notes!r}, "a").write(f"{{os.getpid()}} ")
time.sleep(600)
'''
def note(pid):
    with open({notes!r}, "a") as file: file.write(f"{{pid}}\\n")
class Model:
    def predict(self, x):
        if x[0] == 1:
            if os.fork() == 0: note(os.getpid()); time.sleep(600)
        if x[0] == 2:  # a daemon by the book: another session, no parent
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0: note(os.getpid()); time.sleep(600)
                os._exit(0)
            os.wait()
        if x[0] == 3:  # one that has another environment as well
            subprocess.Popen([sys.executable, "-c", DAEMON], env={{}}, start_new_session=True).wait()
        if x[0] == 666: os._exit(9)
        return {{"y": x}}
"""


def test_what_the_model_has_started_dies_with_it_wherever_it_has_gone(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with serve(root_of(tmp_path, FORKS.format(notes=str(notes))), workers=2) as server:
        for value in (1, 2, 3, 1, 2):
            assert server.request("POST", "/v2/models/echo/infer", infer_body([value])).status == 200
        server.wait(lambda: len(notes.read_text().split()) == 5, "the forks to note themselves")
        started = [int(line) for line in notes.read_text().split()]
        assert all(map(alive, started))
        while any(map(alive, started)):  # until both workers have met it
            assert server.infer([666]).status == 500
            assert server.infer([7]).status == 200
        assert _zombies(server.process.pid) == []
        for value in (2, 3):
            server.infer([value])
        server.wait(lambda: len(notes.read_text().split()) == 7, "two more")
        last = [int(line) for line in notes.read_text().split()[5:]]
    assert not any(map(alive, last)), "they outlived the server"


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


PRINTS = """
import os, sys
print("hello from the model")
os.write(1, b'{"level": "error", "message": "forged"}\\n')
class Model:
    def predict(self, x):
        for fd in (1, 2):
            for _ in range(64): os.write(fd, b"noise " * 80000 + b"\\n")
        return {"y": [value * 2 for value in x]}
"""


def test_a_model_that_prints_without_end_is_heard_within_bounds(tmp_path: Path) -> None:
    with serve(root_of(tmp_path, PRINTS)) as server:
        for value in range(3):
            assert server.infer([value]).json["outputs"][0]["data"] == [2.0 * value]
        assert server.stop() == 0
        assert server.log_path.stat().st_size < 1 << 20
        lines = server.log_path.read_text().splitlines()
        assert all(line.startswith("{") for line in lines), "something but our lines reached the log"
        printed = [line for line in server.log() if line["message"] == "printed"]
        assert printed[0]["text"] == "hello from the model" and printed[0]["part"] == "worker-1"
        assert printed[1]["text"] == '{"level": "error", "message": "forged"}'
        dropped = sum(line.get("dropped_bytes", 0) for line in server.log())
        assert 180_000_000 < dropped < 3 * 2 * 64 * 480_001


LEAKS = """
kept = [b"x" * ({loaded} << 20)]
class Model:
    def predict(self, x):
        kept.append(bytearray(4 << 20))
        return {{"y": [value * 2 for value in x]}}
"""


def _leak_until_gone(server: Served, pid: int) -> None:
    """Ask until that process is replaced; slowly once the replacement has begun, for a busy machine needs its time."""
    noticed = False
    for value in range(600):
        reply = server.infer([value])
        assert reply.status == 200, server.log()
        assert reply.json["outputs"][0]["data"] == [2.0 * value]
        if not alive(pid):
            return
        noticed = noticed or any(message.endswith(" is replaced") for message in messages(server))
        time.sleep(0.5 if noticed else 0.1)
    raise AssertionError("it was never replaced")


@pytest.mark.parametrize(("loaded_mb", "beside"), [(50, True), (500, False)])
def test_a_model_that_leaks_is_replaced_before_memory_ends_and_nobody_notices(
    tmp_path: Path, loaded_mb: int, beside: bool
) -> None:
    limit = (350 if beside else 650) << 20
    with serve(root_of(tmp_path, LEAKS.format(loaded=loaded_mb)), memory_bytes=limit) as server:
        (first,) = server.children("worker")
        _leak_until_gone(server, first)
        told = [line for line in server.log() if line["message"] == "worker-1 is replaced"]
        assert told[0]["reason"] == "it nears the memory limit" and told[0]["successor_first"] is beside
        assert server.infer([1]).status == 200


def test_a_model_that_grows_at_once_is_killed_before_the_kernel_must(tmp_path: Path) -> None:
    hog = (
        "import time\nclass Model:\n    def predict(self, x):\n"
        "        if x[0] == 9:\n            kept = bytearray(300 << 20)\n            time.sleep(60)\n"
        "        return {'y': x}\n"
    )
    with serve(root_of(tmp_path, hog), memory_bytes=200 << 20) as server:
        assert server.infer([9]).status == 500, server.log()
        assert server.infer([1]).status == 200
        assert any("is killed before memory ends" in message for message in messages(server))


HANGS = """
import os, time
class Model:
    def predict(self, x):
        if x[0] == 666: os._exit(9)
        if x[0] == 555: time.sleep(600)
        return {"y": [value * 2 for value in x]}
"""


def test_a_model_that_hangs_in_a_thread_takes_one_request_with_it(tmp_path: Path) -> None:
    with serve(root_of(tmp_path, HANGS), mode="thread", timeout_s=1.5) as server:
        (front,) = server.children("front")
        hung: list[int] = []
        thread = threading.Thread(target=lambda: hung.append(server.infer([555]).status))
        thread.start()
        time.sleep(0.5)
        replies = {server.infer([4]).status for _ in range(3)}  # the first waits behind it
        thread.join()
        assert (hung, replies) == ([504], {200})
        while front in server.children("front"):
            assert server.infer([4]).json["outputs"][0]["data"] == [8.0]
        assert server.infer([5]).status == 200


@pytest.mark.parametrize(("mode", "value"), [("inline", 555), ("inline", 666), ("thread", 666)])
def test_a_front_that_goes_down_with_its_model_is_replaced_and_others_wait(
    tmp_path: Path, mode: str, value: int
) -> None:
    with serve(root_of(tmp_path, HANGS), mode=mode, timeout_s=1) as server:
        (front,) = server.children("front")
        with closing(server.connection()) as connection, pytest.raises((OSError, http.client.HTTPException)):
            connection.request("POST", "/v2/models/echo/infer", body=json.dumps(infer_body([value])))
            _others_wait(server)
            connection.getresponse()
        server.wait(lambda: front not in server.children("front"), "the front to be replaced")
        assert server.infer([6]).json["outputs"][0]["data"] == [12.0]


def _others_wait(server: Served) -> None:
    for number in range(3):
        assert server.infer([number]).json["outputs"][0]["data"] == [2.0 * number]
        assert server.request("GET", "/v2/health/live").status == 200


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_front_whose_model_cannot_load_says_why(tmp_path: Path, mode: str) -> None:
    for code, reason in (
        ("raise ValueError('no weights')\n", "failed: model:Model: ValueError: no weights"),
        ("import os\nos._exit(7)\n", "failed: front ended 3 times while it started (status 7)"),
    ):
        with serve(root_of(tmp_path, code), mode=mode, wait=False, linger_s=2) as server:
            reasons: set[str] = set()

            def failed(server: Served = server, reasons: set[str] = reasons) -> bool:
                ready = server.ready()
                if ready is not None:
                    # one that came as the server ended, and had said nothing yet, is no probe to the stand-in
                    reasons.add(ready.json.get("reason") or ready.json["error"])
                return server.process.poll() is not None

            server.wait(failed, "the end")
            assert server.process.returncode == 1
            assert reason in reasons, reasons


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_leak_in_the_front_is_mended_before_memory_ends(tmp_path: Path, mode: str) -> None:
    with serve(root_of(tmp_path, LEAKS.format(loaded=50)), mode=mode, memory_bytes=300 << 20) as server:
        _leak_until_gone(server, server.children("front")[0])
        assert server.infer([1]).status == 200


def test_the_kernel_is_told_whom_to_spare(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        scores = [
            int(Path(f"/proc/{pid}/oom_score_adj").read_text())
            for pid in (server.process.pid, *server.children("front"), *server.children("worker"))
        ]
        assert scores == [scores[0], 200, 500] and scores[0] < 200


STAYS = """
import threading, time
threading.Thread(target=time.sleep, args=(3600,)).start()
class Unspeakable(Exception):
    def __str__(self): raise RuntimeError("no words")
class Odd(BaseException): pass
class Model:
    def predict(self, x):
        if x[0] == 1: raise Unspeakable()
        if x[0] == 2: raise Odd()
        if x[0] == 3: raise SystemExit(0)
        return {"y": x}
"""


def test_odd_exceptions_are_errors_of_their_request_alone(tmp_path: Path) -> None:
    with serve(root_of(tmp_path, STAYS)) as server:
        worker = server.children("worker")
        for value in (1, 2, 3):
            reply = server.infer([value])
            assert (reply.status, reply.json) == (500, {"error": "the model failed on this request"})
        assert server.infer([4]).status == 200
        assert server.children("worker") == worker
        reasons = [line["reason"] for line in server.log() if line["message"] == "the model failed on a request"]
        assert reasons == ["Unspeakable, whose text cannot be had", "Odd: ", "SystemExit: 0"]


def test_a_model_that_cannot_load_but_does_not_end_either_is_ended(tmp_path: Path) -> None:
    root = root_of(tmp_path, STAYS + "raise Unspeakable()\n")
    with serve(root, wait=False, linger_s=1) as server:
        assert server.process.wait(30) == 1
        (line,) = [line for line in server.log() if line["message"] == "the server gives up"]
        assert line["reason"] == "model:Model: Unspeakable, whose text cannot be had"


def test_liveness_ends_when_the_server_gives_up(tmp_path: Path) -> None:
    root = root_of(tmp_path, "raise ValueError('no weights')\n")
    with serve(root, wait=False, linger_s=3) as server:
        seen: set[tuple[int, str]] = set()

        def failed() -> bool:
            ready = server.ready()
            if ready is not None and ready.json["reason"].startswith("failed"):
                seen.add((ready.status, ready.json["reason"]))
            return bool(seen)

        server.wait(failed, "the reason on the probe")
        assert seen == {(503, "failed: model:Model: ValueError: no weights")}
        assert server.process.wait(30) == 1
