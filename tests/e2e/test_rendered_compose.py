"""The compose file as somebody would use it: docker-compose accepts it, it serves, and Prometheus would find it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.cli import environment, intermodal, world_folder
from support.engines import docker, need
from support.gateways import free_port
from support.served_image import body, golden, predictor, served_image

from intermodal.engine.driver import HARDENED
from intermodal.host import read
from intermodal.oci.layout import Store

pytestmark = [pytest.mark.network, pytest.mark.slow]
MODEL = "parity"


@pytest.fixture
def daemon() -> Iterator[dict[str, str]]:
    with docker() as running:
        yield dict(running.variables)


@contextmanager
def up(folder: Path, variables: Mapping[str, str], *words: str) -> Iterator[None]:
    """The services, gone afterwards."""
    program = need("docker-compose")
    variables = {**environment(folder), **variables, "COMPOSE_PROJECT_NAME": "im"}

    def compose(*more: str) -> None:
        done = subprocess.run(
            [program, "-f", "compose.yaml", *more],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    compose("config", "--quiet")
    try:
        compose("up", "-d", *words)
        yield
    finally:
        compose("down", "--volumes", "--timeout", "5")


def ask(port: int, value: float) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps(body([value])), headers)
        answer = connection.getresponse()
        text = answer.read()
        return json.loads(text)["outputs"][0]["data"] if answer.status == 200 else (answer.status, text)
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        connection.close()


def test_what_is_rendered_serves_and_is_confined(daemon: dict[str, str]) -> None:
    with world_folder() as home:
        host = replace(read(), environment=environment(home))
        store = Store(host.data_dir / "store").open_or_create()
        served_image(store, f"{MODEL}:1.2", predictor(), cases=golden())
        port = free_port()
        made = intermodal(
            "render", f"{MODEL}:1.2", "--format", "compose", "-o", "out", "--port", str(port), "--json", home=home
        )
        assert made.code == 0, made.err
        for line in made.json["next"]:
            if line.startswith("intermodal load"):
                loaded = intermodal(*line.split()[1:], home=home, env=daemon)
                assert loaded.code == 0, loaded.err
        with up(home / "out", daemon, "--scale", f"{MODEL}=2"):
            until_s = time.monotonic() + 60
            while ask(port, 3.0) != ["odd"]:
                assert time.monotonic() < until_s, ask(port, 3.0)
                time.sleep(0.2)
            assert ask(port, 4.0) == ["even"]
            found = containers(daemon)
            assert sorted(one["Config"]["Labels"]["com.docker.compose.service"] for one in found) == [
                "gateway",
                MODEL,
                MODEL,
            ]
            for one in found:
                settings = one["HostConfig"]
                assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"]
                assert settings["SecurityOpt"] == ["no-new-privileges:true"]
                assert (one["Config"]["User"], settings["PidsLimit"]) == (HARDENED.user, HARDENED.pids)
                assert settings["ShmSize"] == HARDENED.scratch_bytes and settings["IpcMode"] == "private"
            inside = next(one["NetworkSettings"]["Networks"] for one in found if _service(one) == MODEL)
            assert list(inside) == ["im_inside"], "replicas have no way out"
            gateway = next(one for one in found if _service(one) == "gateway")
            address = gateway["NetworkSettings"]["Networks"]["im_inside"]["IPAddress"]
            healthy = 'envoy_cluster_membership_healthy{envoy_cluster_name="parity_r1"} 2'
            while healthy not in (statistics := get(address, 9901, "/stats/prometheus")):
                assert time.monotonic() < until_s, statistics  # the second replica may load longer than the first
                time.sleep(0.2)
            assert 'envoy_cluster_upstream_rq_completed{envoy_cluster_name="parity_r1"}' in statistics
            assert get(address, 9901, "/config_dump") == "404", "nothing else of its administration"
            replicas = [
                one["NetworkSettings"]["Networks"]["im_inside"]["IPAddress"] for one in found if _service(one) == MODEL
            ]
            assert all("intermodal_ready 1" in get(one, 9090, "/metrics") for one in replicas)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def _service(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def containers(daemon: Mapping[str, str]) -> list[dict[str, Any]]:
    def run(*words: str) -> str:
        return subprocess.run(
            [need("docker"), *words],
            env={**environment(Path("/tmp")), **daemon},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    found: list[dict[str, Any]] = json.loads(run("inspect", *run("ps", "-q").split()))
    return found


def get(address: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        return text if answer.status == 200 else str(answer.status)
    finally:
        connection.close()
