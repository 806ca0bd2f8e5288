"""A real Prometheus with the file that is rendered for it finds the replicas of a real deployment, and asks them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace
from support.engines import docker, need
from support.gateways import free_port
from support.served_image import body, predictor, served_image

from intermodal.events import SILENT
from intermodal.host import read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.revision import Exposure, Revision, Settings
from intermodal.rooms.deploy.target import Traffic
from intermodal.rooms.deploy.targets.docker import DockerTarget
from intermodal.rooms.render import About, Place
from intermodal.rooms.render.alerts import alerts
from intermodal.rooms.render.grafana import dashboard
from intermodal.rooms.render.prometheus import scrape

pytestmark = [pytest.mark.network, pytest.mark.slow]
MODEL = "parity"
RING = (("INTERMODAL_RING", "100"),)
ABOUT = About(MODEL, Place.DOCKER, target="local")


def wait(condition: Callable[[], Any], what: str) -> Any:
    until_s = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.2)
    return found


@contextmanager
def prometheus(folder: Path, daemon: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Prometheus with the rendered files; hands on a way to ask it."""
    for rendered in (scrape(ABOUT), alerts(ABOUT)):
        for name, content in rendered.files.items():
            (folder / name).write_bytes(content.replace(b"unix:///var/run/docker.sock", daemon.encode()))
    port = free_port()
    words = [need("prometheus"), "--config.file=prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, f"--web.listen-address=127.0.0.1:{port}"],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def ask(query: str) -> list[dict[str, Any]]:
        with suppress(OSError):
            url = f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        return []

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(30)


def test_prometheus_finds_every_replica_once_with_its_revision(tmp_path: Path) -> None:
    with docker() as running:
        here = read()
        own = {**running.variables, "XDG_DATA_HOME": str(tmp_path / "data")}
        host = replace(here, environment={**here.environment, **own})
        store = Store(host.data_dir / "store").open_or_create()
        made = DockerTarget("local", MODEL, Exposure(port=free_port()), store=store, host=host, events=SILENT)
        try:
            for number, replicas in ((1, 2), (2, 1)):
                image = str(served_image(store, f"{MODEL}:{number}", predictor()).digest)
                one = Revision(number, image, image, Settings(replicas=replicas, environment=RING))
                made.prepare(one)
                made.start(one)
                wait(lambda: made.tend() == "" and made.seen([number])[number].healthy == replicas, "replicas")  # noqa: B023
            made.set_traffic(Traffic(((1, 50), (2, 50))))
            (tmp_path / "prometheus").mkdir()
            with prometheus(tmp_path / "prometheus", running.variables["DOCKER_HOST"]) as ask:
                wait(lambda: len(ask("intermodal_ready == 1")) == 3, "three replicas")
                labels = [one["metric"] for one in ask("intermodal_ready")]
                assert sorted((one["model"], one["revision"], one["replica"]) for one in labels) == [
                    (MODEL, "1", "0"),
                    (MODEL, "1", "1"),
                    (MODEL, "2", "0"),
                ]
                until_s = time.monotonic() + 12  # two scrapes and more
                while time.monotonic() < until_s:
                    connection = made.connect(10)
                    connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps(body([2.0])))
                    assert connection.getresponse().status == 200
                    connection.close()
                (content,) = dashboard(ABOUT).files.values()
                silent = []
                told_by_others = ("Rollout", "Predicted numbers, median")  # `status --metrics`; a model with numbers
                for panel in (one for one in json.loads(content)["panels"] if one["title"] not in told_by_others):
                    for target in panel["targets"]:
                        query = target["expr"].replace("$__rate_interval", "1m").replace("$model", MODEL)
                        if not wait_for_revisions(ask, query.replace("$revision", ".*")):
                            silent.append((panel["title"], target["legendFormat"]))
                assert silent == []
                assert [one.place for one in made.predictions(1, {})] == [one.replica[:12] for one in made.reports(1)]
                kept = [entry for page in made.predictions(2, {}) for entry in page.document["predictions"]]
                assert kept and all(entry["outputs"][0]["data"] == ["even"] for entry in kept)
                wait(lambda: ask('absent(ALERTS{alertstate="firing"})'), "no alert")
        finally:
            made.down()
            with suppress(AssertionError):
                wait(lambda: made.tend() == "" and not made._machine.containers(model=MODEL), "nothing to be left")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", made._exposure.port)) != 0


def wait_for_revisions(ask: Callable[[str], list[dict[str, Any]]], query: str) -> bool:
    """Whether both revisions are among the answers soon."""
    until_s = time.monotonic() + 11
    while time.monotonic() < until_s:
        if {one["metric"].get("revision") for one in ask(query)} >= {"1", "2"}:
            return True
        time.sleep(0.5)
    return False
