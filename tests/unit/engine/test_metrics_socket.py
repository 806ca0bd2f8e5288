"""The metrics of a real server in the sandbox: on a socket beside the other, on no port of the host."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.served_image import predictor, served_image

from intermodal.engine.http import get
from intermodal.engine.interface import Container, Endpoint, RunRequest
from intermodal.engine.sandbox import SandboxEngine
from intermodal.host import read
from intermodal.oci.layout import Store

pytestmark = pytest.mark.sandbox


def _until(what: Callable[[], bool], container: Container) -> None:
    end_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end_s and container.poll() is None, container.logs()
        time.sleep(0.02)


def _answers(endpoint: Endpoint, path: str) -> bool:
    try:
        return get(endpoint, path)[0] == 200
    except (OSError, HTTPException):
        return False


@pytest.mark.parametrize("way", ["overlay", "loader"])
def test_two_servers_side_by_side_each_have_their_metrics(way: str, tmp_path: Path) -> None:
    host = replace(read(), home=tmp_path, environment={"TMPDIR": str(tmp_path), "INTERMODAL_SANDBOX": way})
    store = Store(host.data_dir / "store").open_or_create()
    engine = SandboxEngine(store, host)
    images = [served_image(store, f"parity:{number}", predictor(), model=f"m{number}").digest for number in (1, 2)]
    request = RunRequest(images[0], port=0)
    with engine.start(request) as first, engine.start(replace(request, image=images[1])) as second:
        for number, container in ((1, first), (2, second)):
            _until(lambda here=container: _answers(here.endpoint, "/v2/health/ready"), container)
            metrics = container.endpoint.metrics
            assert metrics is not None
            _until(lambda here=metrics: _answers(Endpoint(here), "/sketches"), container)
            assert json.loads(get(Endpoint(metrics), "/sketches")[1])["model"] == f"m{number}"
            assert container.stop() == 0
            assert "metrics cannot" not in container.logs()
