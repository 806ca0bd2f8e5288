"""Acceptance 3: two models whose libraries exclude each other answer side by side, each as where it was trained."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cli import environment, intermodal
from support.envs import CHECKOUT, training_python

pytestmark = [pytest.mark.network, pytest.mark.sandbox, pytest.mark.slow]
PROJECTS = {
    "conflict-old": ("scikit-learn==1.3.2", "numpy==1.26.4"),
    "conflict-new": ("scikit-learn==1.9.1", "numpy>=2"),
}
LOCKS = shutil.ignore_patterns("pylock.*")  # made anew, for the server as it is now


@contextmanager
def running(project: Path, port: int, home: Path) -> Iterator[str]:
    """A project served by `intermodal run` on loopback; its base address."""
    name = project.name
    command = [sys.executable, "-m", "intermodal", "run", str(project), "--port", str(port)]
    log = (home / f"{name}.log").open("w")
    process = subprocess.Popen(command, env=environment(home), stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130), (home / f"{name}.log").read_text()
        log.close()


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def wait_until_ready(base: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{base}/v2/health/ready", timeout=5) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"{base} never became ready")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_both_answer_at_the_same_time(tmp_path: Path) -> None:
    for name in PROJECTS:
        project = shutil.copytree(CHECKOUT / "examples" / name, tmp_path / name, ignore=LOCKS)
        shipped = intermodal("ship", project, "--json", home=tmp_path)
        assert shipped.code == 0, shipped.err
        assert shipped.json["check"]["passed"] is True
        assert shipped.json["check"]["golden"]["recorded_in"] == "training"
    with (
        running(tmp_path / "conflict-old", free_port(), tmp_path) as old,
        running(tmp_path / "conflict-new", free_port(), tmp_path) as new,
    ):
        wait_until_ready(old)
        wait_until_ready(new)
        answers = {
            name: [
                (case["response"], post(f"{base}/v2/models/{name}/infer", case["request"]))
                for case in json.loads((CHECKOUT / "examples" / name / "golden.json").read_text())["cases"]
            ]
            for name, base in (("conflict-old", old), ("conflict-new", new))
        }
    for pairs in answers.values():
        assert pairs
        for expected, actual in pairs:
            by_name = {output["name"]: output for output in actual["outputs"]}
            for output in expected["outputs"]:
                assert by_name[output["name"]]["data"] == pytest.approx(output["data"], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", PROJECTS)
def test_agrees_with_its_training_environment(name: str, tmp_path: Path) -> None:
    """The committed cases are what the training environment answers today, by its own versions."""
    python = training_python(*PROJECTS[name])
    recorded = intermodal(
        "record", CHECKOUT / "examples" / name, "--inputs", CHECKOUT / "examples" / name / "golden.json",
        "--python", python, "--output", tmp_path / "again.json", home=tmp_path,
    )  # fmt: skip
    assert recorded.code == 0, recorded.err
    again = json.loads((tmp_path / "again.json").read_text())
    committed = json.loads((CHECKOUT / "examples" / name / "golden.json").read_text())
    assert len(again["cases"]) == len(committed["cases"]) > 0
    for new, old in zip(again["cases"], committed["cases"], strict=True):
        for mine, theirs in zip(new["response"]["outputs"], old["response"]["outputs"], strict=True):
            assert mine["data"] == pytest.approx(theirs["data"], rel=1e-9)
