"""A test that is killed cannot take down its podman: the next one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.engines import need
from support.podman import _processes, links, podman_service

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman's service")]
TESTS = Path(__file__).resolve().parents[1]
DIES = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from support.podman import podman_service
with podman_service("cni") as running:
    (running.folder / "networks/mine.json").write_text('{"network_interface": "podman54323"}')
    for words in ("netns add forgotten", "link add podman54323 type bridge",
                  "link add veth54323 master podman54323 type veth peer name eth0 netns forgotten"):
        running.inside("ip", *words.split(), check=True)
    print(running.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_test_left_running_is_ended_by_the_next() -> None:
    need("podman")
    done = subprocess.run([sys.executable, "-c", DIES, str(TESTS)], stdout=subprocess.PIPE, text=True, check=False)
    folder = Path(done.stdout.strip())
    assert done.returncode == -9 and folder.is_dir()
    assert {"podman54323", "veth54323"} <= links()
    with podman_service("cni"):
        assert not {"podman54323", "veth54323"} & links()
        assert not folder.exists()
        assert _processes(folder) == []
