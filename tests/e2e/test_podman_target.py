"""The target `local` with podman's service in Docker's place: a rollout under load, a crash, and nothing left."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.cli import SHARED_CACHE
from support.engines import need
from support.gateways import free_port
from support.load import Load
from support.podman import PodmanService, links, podman_service
from support.served_image import body, golden, predictor, served_image
from support.ssh import ssh_server

from intermodal import pipeline, rollouts
from intermodal.deployed import Deployment
from intermodal.engine.api import ApiError
from intermodal.engine.docker import DockerDriver
from intermodal.engine.inside import judge, script
from intermodal.errors import EngineError
from intermodal.events import SILENT
from intermodal.host import Host, read
from intermodal.rooms.deploy.revision import Exposure, Revision, Settings
from intermodal.rooms.deploy.rollout import Phase
from intermodal.rooms.deploy.target import Traffic
from intermodal.rooms.deploy.targets import bodies
from intermodal.rooms.deploy.targets.docker import DockerTarget
from intermodal.rooms.deploy.targets.machine import Machine
from intermodal_server.contract import USER_ID, ServeSettings

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("podman's service")]
PATIENCE_S = 60.0
MODEL = "parity"
RATE = 10.0
QUICK = ServeSettings(workers=1, drain_s=0.5)


def host_with(variables: dict[str, str], folder: Path) -> Host:
    own = {**variables, "XDG_DATA_HOME": str(folder / "data"), "XDG_CACHE_HOME": str(SHARED_CACHE), "TOKEN": "sesame"}
    return replace(read(), environment={**os.environ, **own})


@pytest.fixture(scope="module")
def service() -> Iterator[PodmanService]:
    with podman_service() as running:
        yield running


@pytest.fixture
def host(service: PodmanService, tmp_path: Path) -> Host:
    return host_with(dict(service.variables), tmp_path)


def wait(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.1)


def users(rng: random.Random) -> dict[str, Any]:
    return body([float(rng.randrange(100))])


def project(folder: Path, port: int) -> Path:
    """A project whose `[deploy]` counts; its image is not built from it."""
    (folder / "intermodal.toml").write_text(
        f'[model]\nname = "{MODEL}"\npredictor = "app:Model"\n'
        f'[deploy]\ntarget = "local"\nport = {port}\nreplicas = 2\n'
        'strategy = "canary"\nsteps = [{ weight = 50, min_requests = 40 }]\nbake = "1s"\n'
        '[secrets]\nTOKEN = { from = "env:TOKEN" }\n'
    )
    (folder / "app.py").write_text("class Model:\n    def predict(self, x):\n        return {}\n")
    return folder


def deploy(host: Host, number: int) -> Deployment:
    source = predictor(start=f"assert open('/run/secrets/TOKEN').read() == 'sesame'  # {number}")
    served_image(pipeline.open_store(host), f"{MODEL}:{number}", source, cases=golden(), serve=QUICK)
    found = rollouts.deploy(f"{MODEL}:{number}", host=host)
    assert found.rollout is not None and found.rollout.phase is Phase.PROMOTED, found.rollout
    return found


def ask(target: DockerTarget, value: float) -> object:
    connection = target.connect(10)
    try:
        connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps(body([value])))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return json.loads(answer.read())["outputs"][0]["data"]
    finally:
        connection.close()


def test_rollout_and_crash_lose_nobody_and_nothing_stays(
    service: PodmanService, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.chdir(project(tmp_path, port))
    assert pipeline.load(Path(), host=host).name == MODEL
    target = DockerTarget("local", MODEL, Exposure(port=port), store=pipeline.open_store(host), host=host)
    machine = target._machine
    assert machine.is_podman
    try:
        deploy(host, 1)
        assert (ask(target, 2.0), ask(target, 3.0)) == (["even"], ["odd"])
        with Load(port, f"/v2/models/{MODEL}/infer", users, RATE) as load:
            second = deploy(host, 2)
            assert dict(second.shares)[2] == 100
            one, _ = machine.containers(model=MODEL, revision="2")
            inspected = machine.inspect(one.id)
            os.kill(inspected["State"]["Pid"], signal.SIGKILL)
            wait(lambda: machine.inspect(one.id)["RestartCount"] > 0, "podman to start the replica again")
            wait(lambda: target.tend() == "" and target.seen([2])[2].healthy == 2, "both replicas to be healthy")
            assert len(machine.containers(model=MODEL)) == 2, "the first revision is gone"
            assert len(service.left()) == 5, "a bridge, two links, two namespaces"
            networks = machine.inspect(one.id)["NetworkSettings"]["Networks"]
            assert networks[bodies.NETWORK]["IPAddress"] == one.labels[bodies.ADDRESS]
        assert load.lost == [], load.lost[:5]
        assert {status for _, status in load.answers} == {200} and {"1", "2"} <= {number for number, _ in load.answers}
        confined(inspected)
        walls(machine, one.id)
    finally:
        rollouts.down(MODEL, host=host)
    assert machine.containers() == []
    assert machine._subnet() == "" and target._volumes() == set()
    volumes = machine.api.json("GET", "/volumes")["Volumes"] or []
    assert [one["Name"] for one in volumes] == []
    assert not (target._gateway._folder / "daemon").exists()
    nothing_stays(service)


def test_another_machine_with_podman_alone_is_the_same_through_ssh(
    service: PodmanService, host: Host, tmp_path: Path
) -> None:
    need("ssh")
    there = tmp_path / "bin"  # no docker program is found over there
    there.mkdir()
    for program in ("sh", "podman"):
        (there / program).symlink_to(need(program))
    socket = host.environment["DOCKER_HOST"]
    with ssh_server({"CONTAINER_HOST": socket, "PATH": str(there)}) as (place, variables):
        own = {**host.environment, **variables}
        away = replace(host, environment={name: value for name, value in own.items() if name != "DOCKER_HOST"})
        store = pipeline.open_store(away)
        image = str(served_image(store, f"{MODEL}:1", predictor(), serve=QUICK).digest)
        one = Revision(1, image, image, Settings())
        target = DockerTarget(f"ssh://{place}", MODEL, Exposure(port=free_port()), store=store, host=away)
        try:
            target.prepare(one)
            assert target._machine.is_podman
            with target._gateway.lock():  # as a process does that dies in between, and podman after a reboot
                target._create(one, 0, target._machine.free_address(set()))
            wait(lambda: target.tend() == "" and target.seen([1])[1].healthy, "a healthy replica")
            target.set_traffic(Traffic(((1, 100),)))
            assert ask(target, 2.0) == ["even"]
            (found,) = target._machine.containers(model=MODEL)
            target.set_traffic(Traffic())
            target.stop(1)
            lives = [0]

            def gone() -> bool:
                lives.append(int(target._machine.inspect(found.id).get("RestartCount") or 0))
                return target.tend() == "" and target.seen([1])[1].containers == 0

            wait(gone, "the replica to end")
            assert max(lives) == 0, "one that was asked to end is not started again"
        finally:
            target.down()
            wait(lambda: target.down() is None and not target._machine.containers(), "nothing to be left")
            target.down()
        assert target._machine._subnet() == ""
    nothing_stays(service)


def test_address_that_podman_does_not_give_is_not_asked_for_for_ever(
    service: PodmanService, host: Host, tmp_path: Path
) -> None:
    store = pipeline.open_store(host)
    one = Revision(1, *[str(served_image(store, f"{MODEL}:1", predictor(), serve=QUICK).digest)] * 2, Settings())
    target = DockerTarget("local", MODEL, Exposure(port=free_port()), store=store, host=host)
    machine = target._machine
    stranger = ""
    try:
        target.prepare(one)
        first = machine.free_address(set())
        body = bodies.replica("stranger", one, 0, image=machine.image(one.image, SILENT), address=first)
        stranger = machine.create("stranger", {**body, "Labels": {}})
        machine.start(stranger)
        with pytest.raises(ApiError, match=first):
            target.start(one)
        target.start(one)
        wait(lambda: target.tend() == "" and target.seen([1])[1].healthy, "a healthy replica")
        assert [found.labels[bodies.ADDRESS] for found in machine.containers(model=MODEL)] != [first]
    finally:
        machine.remove(stranger)
        wait(lambda: target.down() is None and not machine.containers(), "nothing to be left")
        target.down()
    nothing_stays(service)


def nothing_stays(service: PodmanService) -> None:
    """Podman takes links and namespaces down when a container has ended, which its engine may tell before."""
    with suppress(AssertionError):
        wait(lambda: not service.left(), "links and namespaces to go")
    assert service.left() == []


def confined(inspected: dict[str, Any]) -> None:
    """The walls of a replica, as the kernel has them."""
    settings = inspected["HostConfig"]
    assert settings["ReadonlyRootfs"] and settings["RestartPolicy"]["Name"] == "always"
    assert "sesame" not in json.dumps(inspected)
    for place in ("/run", "/var/tmp"):
        assert "size=64k" in settings["Tmpfs"][place]


def walls(machine: Machine, container: str) -> None:
    """What the replica itself finds when it tries to get out."""
    words = ["/opt/venv/bin/python3", "-I", "-S", "-c", script(machine.platform.partition("/")[2])]
    said = DockerDriver(machine._store, machine._host, machine.api).execute(container, words)
    found = judge(said[1], USER_ID)
    missing = [name for name, there in found.measures.items() if not there]
    assert (missing, found.notes) == (["read_only_root"], ("writable: /run/secrets",))  # the model's own secrets


def test_old_network_back_end_is_refused_and_told_what_to_install(tmp_path: Path) -> None:
    with podman_service("cni") as running:
        host = host_with(dict(running.variables), tmp_path)
        store = pipeline.open_store(host)
        image = str(served_image(store, f"{MODEL}:1", predictor()).digest)
        target = DockerTarget("local", MODEL, Exposure(port=free_port()), store=store, host=host)
        with pytest.raises(EngineError, match="no place to deploy to") as caught:
            target.prepare(Revision(1, image, image, Settings()))
        assert "'cni'" in str(caught.value) and "netavark aardvark-dns" in str(caught.value)
        assert target._machine.containers() == [] and target._machine._subnet() == ""


def test_what_a_killed_podman_forgets_is_seen_and_goes_with_it() -> None:
    with podman_service("cni") as running:
        assert running.left() == []
        running.inside("ip", "netns", "add", "forgotten", check=True)
        for words in ("veth54321 type veth peer name eth0 netns forgotten", "podman54321 type bridge"):
            running.inside("ip", "link", "add", *words.split(), check=True)
        assert running.left() == ["link podman54321", "link veth54321", "namespace forgotten"]
        assert not Path("/run/netns/forgotten").exists()
    assert not {"podman54321", "veth54321"} & links()
