"""Tests that are asked to end take down what they started, run by themselves or by `tests/run.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SLEEPER = """
import pathlib, pytest, time
HERE = pathlib.Path(__file__).parent

@pytest.fixture
def daemon():
    (HERE / "runs").touch()
    yield
    (HERE / "runs").rename(HERE / "ended")

def test_long(daemon):
    time.sleep(600)
"""


@pytest.mark.parametrize("words", [("-m", "pytest"), ("-c", "import sys, run; sys.exit(run._pytest(sys.argv[1:]))")])
def test_what_was_started_is_taken_down(words: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_sleeper.py").write_text(SLEEPER)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    running = subprocess.Popen(
        [sys.executable, *words, *options, str(tmp_path / "test_sleeper.py")],
        env={**os.environ, "PYTHONPATH": str(TESTS)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until_s = time.monotonic() + 60
    while not (tmp_path / "runs").exists():
        assert time.monotonic() < until_s and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 2
    assert (tmp_path / "ended").exists()
