"""What the serving benchmark rests on that is no measurement: versions, bodies, verdicts, processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from support.cli import CHECKOUT

sys.path.append(str(CHECKOUT))  # the benchmarks are part of the checkout, not of the package

from benchmarks.serving import kitchen, tables, tree
from benchmarks.serving.contenders import BARE, CONTENDERS
from benchmarks.serving.extras import Idle
from benchmarks.serving.load import Point
from benchmarks.serving.results import POINTS, Results
from intermodal_server.contract import ModelSettings


@pytest.mark.parametrize("path", sorted(kitchen.HERE.rglob("*.txt")), ids=lambda path: path.parent.name)
def test_every_package_of_a_peer_has_its_version(path: object) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]  # type: ignore[attr-defined]
    assert lines and all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)


def test_all_models_are_the_same_versions_of_the_same_packages() -> None:
    lists = [set(path.read_text().splitlines()) for path in kitchen.HERE.rglob("*.txt")]
    for name in ("scikit-learn", "numpy", "onnxruntime", "joblib"):
        assert len({line for each in lists for line in each if line.startswith(f"{name}==")}) == 1, name


@pytest.mark.parametrize("kind", kitchen.KINDS)
def test_settings_of_our_image_can_be_read_back(kind: str) -> None:
    assert ModelSettings.from_json(kitchen.settings(kind).to_json()) == kitchen.settings(kind)


def test_bodies_say_the_same_in_two_forms() -> None:
    rows = [[1.0, 2.0], [3.0, 4.0]]
    tensor = json.loads(CONTENDERS["ours"].body("mlp", rows))["inputs"][0]
    assert (tensor["datatype"], tensor["shape"], tensor["data"]) == ("FP32", [2, 2], [1.0, 2.0, 3.0, 4.0])
    assert json.loads(CONTENDERS["FastAPI"].body("mlp", rows)) == {"rows": rows}
    document = {"outputs": [{"shape": [2, 2], "data": [1, 2, 3, 4]}]}
    assert CONTENDERS["ours"].read(document) == [[1, 2], [3, 4]]
    assert CONTENDERS["MLServer"].read({"outputs": [{"shape": [2], "data": [5, 6]}]}) == [5, 6]


def results(ours: float, peer: float) -> Results:
    found = Results({1: {"forest": 3.0, "mlp": 0.01}, 32: {"forest": 4.0, "mlp": 0.02}})
    for kind in kitchen.KINDS:
        for name, rate in (("ours", ours), ("FastAPI", peer / 2), ("MLServer, batching", peer), (BARE, peer * 9)):
            cell = found.cell(name, kind)
            for at in POINTS:
                cell.add(*at, Point(rate, 3.2, 5.0, 20.0, 1000, 0.5))
            cell.start_s.append(0.5)
            cell.memory.append(tree.Memory(10, 9, 1))
            cell.health_ms.append([1.0] * 100)
    found.binary_ms.append(0.5)
    found.idle.append(Idle(0.7, 30.0, tree.Memory(40, 30, 2)))
    return found


def test_verdicts_hold_and_miss() -> None:
    text = tables.markdown(results(ours=600, peer=100))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    verdicts = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert verdicts["network, 1 row, c=32: requests/s"] == ["6.0x MLServer, batching (600 to 100)", "5x", "holds"]
    assert verdicts["- p99, against p50 of MLServer, batching"][2] == "missed by 56 %"
    assert verdicts["forest, 1 row, c=32: requests/s"][2] == "holds"
    assert verdicts["- start to first answer"] == ["0.7 s", "at most 0.6 s", "missed by 17 %"]
    assert "600 (3.2 / 5)" in text
    worse = tables.markdown(results(ours=400, peer=100))
    assert "| 4.0x MLServer, batching (400 to 100) | 5x | missed by 25 % |" in worse


def test_a_tree_of_processes_is_counted_whole() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        found = tree.pids(process.pid)
        assert len(found) == 2 and tree.memory(found).rss_mb > tree.memory([process.pid]).rss_mb
        assert tree.cpu_s(process.pid) > 0
        process.stdin.write(b"\n")
        process.stdin.close()
    assert os.getpid() not in found
