"""Where the model runs: in the event loop, in a thread, in workers; chosen, measured, refused; what crashes cost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from support.envs import training_python
from support.serving import Served, echo_settings, infer_body, models_python, serve, trained, write_root

from intermodal_server.contract import ServeSettings

MODES = ("inline", "thread", "workers")
ECHO = """
import os, time
calls = []
class Model:
    def predict(self, x):
        calls.append(len(x))
        first = x[0]
        if 666 in x: os._exit(9)
        if 555 in x: time.sleep(600)
        if 444 in x: raise ValueError("secret")
        if 333 in x: raise SystemExit(1)
        if 222 in x: return {"y": [1.0]}
        {pace}
        return {"y": [value * 2 for value in x], "together": [max(calls[-1], 0)] * len(x)}
"""


def golden(rows: int = 4) -> dict[str, Any]:
    """Cases of the echo model; `together` is how many rows it was asked with."""
    cases = []
    for row in range(rows):
        outputs = [{"name": "y", "datatype": "FP64", "shape": [1], "data": [2.0 * row]}]
        cases.append({"name": f"row {row}", "request": infer_body([float(row)]), "response": {"outputs": outputs}})
    return {"format": 1, "recorded_in": "training", "environment": {}, "cases": cases}


def echo_root(folder: Path, pace: str = "pass", **changes: Any) -> Path:
    """An echo model without numpy, with golden cases."""
    code = ECHO.replace("{pace}", pace).replace(', "together": [max(calls[-1], 0)] * len(x)', "")
    return write_root(folder, echo_settings(**changes), app={"echo.py": code}, golden=golden())


def decision(server: Served) -> dict[str, str]:
    """What the server says of how it runs the model."""
    document = server.request("GET", "/v2/models/echo/config").json
    return {name: value["string_value"] for name, value in document["parameters"].items()}


def answers(server: Served, value: float) -> list[float]:
    reply = server.infer([value])
    assert reply.status == 200, reply.body
    found: list[float] = reply.json["outputs"][0]["data"]
    return found


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_answers_and_survives_what_the_model_raises(tmp_path: Path, mode: str) -> None:
    with serve(echo_root(tmp_path), mode=mode) as server:
        assert decision(server)["mode"] == mode
        assert bool(server.children("worker")) == (mode == "workers")
        assert answers(server, 3) == [6]
        for value in (444, 333, 222):
            reply = server.infer([value, 1])
            assert (reply.status, reply.json) == (500, {"error": "the model failed on this request"})
        assert answers(server, 4) == [8]
        assert server.request("GET", "/v2/models/echo/ready").status == 200
        assert len(server.children("front")) == 1


def crowd(server: Served, values: list[float]) -> list[Any]:
    """The answers to requests that are sent at once, or their status where there is none."""
    found: list[Any] = [None] * len(values)
    barrier = threading.Barrier(len(values))

    def ask(place: int) -> None:
        connection = server.connection()
        connection.request("GET", "/v2/health/live")  # a loop may take one new connection a turn
        connection.getresponse().read()
        barrier.wait()
        connection.request("POST", "/v2/models/echo/infer", json.dumps(infer_body([values[place]])))
        reply = connection.getresponse()
        body = reply.read()
        found[place] = json.loads(body)["outputs"][0]["data"] if reply.status == 200 else reply.status
        connection.close()

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("mode", MODES)
def test_who_comes_together_goes_together_and_gets_his_own(tmp_path: Path, mode: str) -> None:
    with serve(echo_root(tmp_path, pace="time.sleep(0.11)"), mode=mode, access_log="all") as server:
        assert decision(server)["batching"].startswith("on: golden rows answer together as alone")
        values: list[float] = [*range(1, 9), 444, *range(9, 16)]
        assert crowd(server, values) == [500 if value == 444 else [2.0 * value] for value in values]
        assert any(line.get("batch_rows", 1) > 1 for line in server.log()), "nobody went together"


def test_a_crash_in_a_batch_costs_only_who_caused_it(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path, pace="time.sleep(0.05)"), mode="workers", access_log="all") as server:
        values = [1.0, 2.0, 666.0, 3.0, 4.0, 5.0]
        assert crowd(server, values) == [500 if value == 666 else [2.0 * value] for value in values]


def test_a_hang_in_a_batch_costs_only_who_caused_it(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path, pace="time.sleep(0.5)"), mode="workers", timeout_s=12) as server:
        first = threading.Thread(target=server.infer, args=([9.0],))  # keeps the model busy while the others come
        first.start()
        time.sleep(0.2)
        values = [1.0, 2.0, 555.0, 3.0]
        assert crowd(server, values) == [504 if value == 555 else [2.0 * value] for value in values]
        first.join()


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_crash_of_the_front_s_own_model_replaces_the_front(tmp_path: Path, mode: str) -> None:
    with serve(echo_root(tmp_path), mode=mode) as server:
        (front,) = server.children("front")
        with pytest.raises((OSError, HTTPException)):
            server.infer([666])
        server.wait(lambda: server.children("front") not in ([], [front]), "another front")
        server.wait_ready()
        assert answers(server, 5) == [10]
        assert decision(server)["mode"] == mode


def test_a_hang_in_the_thread_is_answered_and_the_front_is_replaced(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), mode="thread", timeout_s=1) as server:
        (front,) = server.children("front")
        reply = server.infer([555])
        assert (reply.status, reply.json) == (504, {"error": "the model did not answer within 1 s"})
        server.wait(lambda: front not in server.children("front"), "the end of the front")
        server.wait_ready()
        assert answers(server, 5) == [10]


@pytest.mark.parametrize(
    ("pace", "mode"),
    [
        ("pass", "inline"),
        ("time.sleep(0.004)", "thread"),  # long, but others may run
        ("sum(range(400_000))", "workers"),  # one call into C that lets nobody run
    ],
)
def test_auto_measures_and_moves_the_model_where_it_runs_best(tmp_path: Path, pace: str, mode: str) -> None:
    root, found = echo_root(tmp_path, pace=pace), {}
    for _ in range(3):  # on a starved machine a light model may look like a heavier one
        with serve(root) as server:
            found = decision(server)
            if found["mode"] == mode:
                _stays(server, mode)
                return
    raise AssertionError(found)


def _stays(server: Served, mode: str) -> None:
    """The model answers there, and a front that replaces another leaves it there."""
    assert answers(server, 3) == [6]
    server.wait(lambda: bool(server.children("worker")) == (mode == "workers"), "the worker to go")
    os.kill(server.children("front")[0], signal.SIGKILL)
    server.wait_ready()
    assert answers(server, 4) == [8]
    assert decision(server)["mode"] == mode


def test_auto_leaves_a_program_without_golden_cases_to_a_worker(tmp_path: Path) -> None:
    with serve(write_root(tmp_path, echo_settings(), app={"echo.py": ECHO.replace("{pace}", "pass")})) as server:
        found = decision(server)
        assert found["mode"] == "workers" and found["max_batch_rows"] == "1"
        assert "no golden cases" in found["mode_reason"] and "no golden cases" in found["batching"]


@pytest.mark.parametrize(
    ("changes", "variables", "reason"),
    [
        ({"collision": ("msgspec", "orjson")}, {"mode": "inline"}, "different versions of msgspec, orjson"),
        ({}, {"mode": "thread", "workers": 2}, "workers = 2"),
    ],
)
def test_some_models_get_workers_whatever_is_asked(
    tmp_path: Path, changes: dict[str, Any], variables: dict[str, Any], reason: str
) -> None:
    with serve(echo_root(tmp_path, **changes), **variables) as server:
        found = decision(server)
        assert found["mode"] == "workers" and reason in found["mode_reason"]
        assert answers(server, 3) == [6]
        assert found["batching"].startswith("on:")


def test_batching_can_be_turned_off_and_a_model_that_mixes_rows_is_not_batched(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path / "off", serve=ServeSettings(max_batch_rows=1))) as server:
        assert decision(server)["batching"] == "off: max_batch_rows = 1"
    mixes = "class Model:\n    def predict(self, x):\n        return {'y': [v * 2 + len(x) - 1 for v in x]}\n"
    root = write_root(tmp_path / "mixes", echo_settings(), app={"echo.py": mixes}, golden=golden())
    with serve(root, mode="thread") as server:
        assert decision(server)["batching"] == "off: rows together are not answered as they are alone"
        assert crowd(server, [1, 2, 3]) == [[2], [4], [6]]


def test_a_model_that_cannot_load_in_the_front_says_so_or_stays_in_its_worker(tmp_path: Path) -> None:
    picky = (
        "import sys\nassert 'uvloop' not in sys.modules, 'not beside an event loop'\n"
        "class Model:\n    def predict(self, x):\n        return {'y': [v * 2 for v in x]}\n"
    )
    root = write_root(tmp_path, echo_settings(), app={"echo.py": picky}, golden=golden())
    with serve(root) as server:
        found = decision(server)
        assert found["mode"] == "workers" and found["mode_reason"] == "the front cannot load the model"
        assert answers(server, 3) == [6]
    with serve(root, mode="inline", wait=False, linger_s=0) as server:
        assert server.process.wait(60) == 1
        assert any("not beside an event loop" in str(line.get("reason")) for line in server.log())


def test_a_model_that_exits_while_it_loads_is_told_on_the_probe(tmp_path: Path) -> None:
    root = write_root(tmp_path, echo_settings(), app={"echo.py": "raise SystemExit('not today')\n"}, golden=golden())
    with serve(root, mode="thread", wait=False, linger_s=0) as server:
        assert server.process.wait(60) == 1
        assert any("SystemExit: not today" in str(line.get("reason")) for line in server.log())


def test_a_model_whose_packages_would_break_the_front_answers_in_a_worker(tmp_path: Path) -> None:
    old = ("msgspec==0.18.0", "orjson==3.9.0", "httptools==0.6.0", "uvicorn==0.13.4", "click==7.1.2")
    code = (
        "import click, msgspec, orjson, uvicorn\nfrom importlib.metadata import version\n"
        "class Model:\n    def predict(self, x):\n"
        "        names = ['msgspec', 'orjson', 'uvicorn', 'click']\n"
        "        return {'y': [' '.join(map(version, names)) for _ in x]}\n"
    )
    root = write_root(tmp_path, echo_settings(collision=("msgspec", "orjson")), app={"echo.py": code})
    with serve(root, worker=training_python(*old), mode="inline") as server:
        assert decision(server)["mode"] == "workers"
        assert answers(server, 1) == ["0.18.0 3.9.0 0.13.4 7.1.2"]  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("mode", MODES)
def test_frameworks_of_the_model_s_environment_in_every_mode(mode: str) -> None:
    with serve(trained("digits"), worker=models_python(), mode=mode) as server:
        rows = [[0.0] * 64, [8.0] * 64]
        tensor = {"name": "X", "datatype": "FP64", "shape": [2, 64], "data": [*rows[0], *rows[1]]}
        reply = server.request("POST", "/v2/models/digits/infer", {"inputs": [tensor]})
        assert reply.status == 200 and reply.json["outputs"][0]["shape"] == [2]
        assert server.request("GET", "/v2/models/digits/config").json["parameters"]["mode"]["string_value"] == mode
        notices = [line for line in server.log() if "n_jobs was set to 1" in line["message"]]
        assert {line["part"] for line in notices} == {"worker-1" if mode == "workers" else "front"}
