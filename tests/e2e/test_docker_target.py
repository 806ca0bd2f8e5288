"""The targets `local` and `ssh://`: real containers behind a real gateway, here and through ssh."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.engines import docker, need
from support.served_image import body, predictor, served_image
from support.ssh import ssh_server

from intermodal.engine.api import ApiError
from intermodal.errors import EngineError, PortTakenError
from intermodal.events import SILENT
from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.revision import Exposure, Revision, Settings
from intermodal.rooms.deploy.target import Traffic
from intermodal.rooms.deploy.targets import bodies
from intermodal.rooms.deploy.targets.docker import DockerTarget
from intermodal.rooms.deploy.targets.machine import Machine

pytestmark = [pytest.mark.network, pytest.mark.slow]
PATIENCE_S = 60.0
MODEL = "parity"


@pytest.fixture(scope="module")
def daemon() -> Iterator[dict[str, str]]:
    with docker() as running:
        yield dict(running.variables)


@pytest.fixture
def host(daemon: dict[str, str], tmp_path: Path) -> Host:
    here = read()
    own = {**daemon, "XDG_DATA_HOME": str(tmp_path / "data"), "TOKEN": "a secret of this test"}
    return replace(here, environment={**here.environment, **own})


@pytest.fixture
def store(host: Host) -> Store:
    return Store(host.data_dir / "store").open_or_create()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.1)


@contextmanager
def target(
    host: Host, store: Store, *, name: str = "local", exposure: Exposure | None = None
) -> Iterator[DockerTarget]:
    """A target that is gone afterwards."""
    made = DockerTarget(name, MODEL, exposure or Exposure(port=free_port()), store=store, host=host, events=SILENT)
    try:
        yield made
    finally:
        made.down()
        with suppress(AssertionError):
            wait(lambda: made.down() is None and not made._machine.containers(model=MODEL), "nothing to be left")
        made.down()
        assert made._machine._subnet() == "", "the network stays behind"


def revision(store: Store, number: int, source: str = "", **settings: object) -> Revision:
    image = str(served_image(store, f"{MODEL}:{number}", source or predictor()).digest)
    return Revision(number, image, image, Settings(**settings))  # type: ignore[arg-type]


def bring_up(made: DockerTarget, one: Revision) -> None:
    made.prepare(one)
    made.start(one)
    wait(lambda: made.tend() == "" and made.seen([one.number])[one.number].healthy, "a healthy replica")


def ask(made: DockerTarget, value: float = 2.0) -> tuple[int, object]:
    connection = made.connect(10)
    try:
        connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps(body([value])))
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text)["outputs"][0]["data"] if answer.status == 200 else text
    finally:
        connection.close()


def test_daemons_beside_each_other_have_networks_of_their_own(host: Host, store: Store, tmp_path: Path) -> None:
    with docker() as other:
        beside = replace(host, environment={**host.environment, **other.variables})
        machines = [Machine("", tmp_path / name, store=store, host=one) for name, one in (("a", host), ("b", beside))]
        pools = [ip_network(one.api.json("GET", "/info")["DefaultAddressPools"][0]["Base"]) for one in machines]
        assert not pools[0].overlaps(pools[1])
        for one, pool in zip(machines, pools, strict=True):
            try:
                assert ip_network(one.network()).subnet_of(pool)
            finally:
                one.remove_network()


def test_two_revisions_share_the_traffic_and_one_goes(host: Host, store: Store) -> None:
    with target(host, store) as made:
        bring_up(made, revision(store, 1, replicas=2))
        made.set_traffic(Traffic(((1, 100),)))
        assert ask(made) == (200, ["even"])
        bring_up(made, revision(store, 2, predictor(answer='"new"')))
        lost: list[object] = []
        ended = threading.Event()

        def load() -> None:
            while not ended.is_set():
                status, data = ask(made)
                if status != 200 or data not in (["even"], ["new"]):
                    lost.append((status, data))

        callers = [threading.Thread(target=load) for _ in range(4)]
        for caller in callers:
            caller.start()
        made.set_traffic(Traffic(((1, 50), (2, 50))))
        assert made.traffic() == Traffic(((1, 50), (2, 50)))
        with pytest.raises(EngineError, match="still has traffic"):
            made.stop(1)
        made.set_traffic(Traffic(((1, 0), (2, 100))))
        made.stop(1)
        wait(lambda: made.tend() == "" and made.seen([1])[1].containers == 0, "the old revision to go")
        ended.set()
        for caller in callers:
            caller.join()
        assert lost == []
        assert ask(made) == (200, ["new"])
        seen = made.scrape([2])
        assert seen is not None and seen.live[2].requests > 0 and seen.live[2].errors == 0
        (report,) = made.reports(2)
        assert report.sketches["model"] == MODEL
        assert "ready" in made.logs(2)


def test_replica_is_confined_and_reads_its_secrets_as_files(host: Host, store: Store) -> None:
    source = predictor(answer='open("/run/secrets/TOKEN").read()', start="")
    one = revision(store, 1, source, secrets=(("TOKEN", "env:TOKEN"),), memory="256Mi", cpu="500m")
    with target(host, store) as made:
        bring_up(made, one)
        made.set_traffic(Traffic(((1, 100),)))
        assert ask(made) == (200, ["a secret of this test"])
        (found,) = made._machine.containers(model=MODEL)
        inspected = made._machine.inspect(found.id)
        settings = inspected["HostConfig"]
        assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"]
        assert settings["Memory"] == 256 << 20 and settings["NanoCpus"] == 500_000_000
        assert settings["RestartPolicy"]["Name"] == "unless-stopped"
        assert "a secret of this test" not in json.dumps(inspected)
    assert not made._volumes()


def test_dead_replica_and_dead_gateway_come_back_where_they_were(host: Host, store: Store) -> None:
    with target(host, store) as made:
        bring_up(made, revision(store, 1))
        made.set_traffic(Traffic(((1, 100),)))
        (found,) = made._machine.containers(model=MODEL)
        address = found.labels[bodies.ADDRESS]
        gateway = made._machine.gateway()
        assert gateway is not None
        for container in (found.id, *[gateway.id] * 3):  # a gateway that came back is well, however often it ended
            pid = int(made._machine.inspect(container)["State"]["Pid"])
            os.kill(pid, signal.SIGKILL)
            wait(
                lambda one=container, before=pid: made._machine.inspect(one)["State"]["Pid"] not in (0, before),
                "the container to be started again",
            )

        def answers() -> bool:
            try:
                return made.tend() == "" and ask(made) == (200, ["even"])
            except OSError:
                return False

        wait(answers, "an answer")
        networks = made._machine.inspect(found.id)["NetworkSettings"]["Networks"]
        assert networks[bodies.NETWORK]["IPAddress"] == address
        assert made.traffic() == Traffic(((1, 100),))


def test_address_that_the_engine_does_not_give_is_not_asked_for_again(host: Host, store: Store) -> None:
    one = revision(store, 1)
    with target(host, store) as made:
        made.prepare(one)
        machine = made._machine
        first = machine.free_address(set())
        body = bodies.replica("stranger", one, 0, image=machine.image(one.image, SILENT), address=first)
        stranger = machine.create("stranger", {**body, "Labels": {}})
        try:
            machine.start(stranger)
            with pytest.raises(ApiError):
                made.start(one)
            bring_up(made, one)
            (found,) = machine.containers(model=MODEL)
            assert found.labels[bodies.ADDRESS] != first
        finally:
            machine.remove(stranger)


def test_revision_that_cannot_start_tells_why(host: Host, store: Store) -> None:
    with target(host, store) as made:
        one = revision(store, 1, predictor(start="raise RuntimeError('no weights here')"))
        made.prepare(one)
        made.start(one)

        def problem() -> str:
            made.tend()
            return made.seen([1])[1].problem

        wait(problem, "a problem")
        assert "no weights here" in problem()
        assert made.seen([1])[1].healthy == 0


def test_taken_port_is_told_before_anything_is_started(host: Host, store: Store) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with target(host, store, exposure=Exposure(port=other.getsockname()[1])) as made:
            with pytest.raises(PortTakenError):
                made.prepare(revision(store, 1))
            assert made._machine.containers() == []


def test_another_machine_is_the_same_through_ssh(daemon: dict[str, str], host: Host, store: Store) -> None:
    need("ssh")
    with ssh_server(daemon) as (place, variables):
        there = replace(host, environment={**host.environment, **variables})
        with target(there, store, name=f"ssh://{place}") as made:
            bring_up(made, revision(store, 1))
            made.set_traffic(Traffic(((1, 100),)))
            assert ask(made) == (200, ["even"])
            assert made.traffic() == Traffic(((1, 100),))
            assert [report.sketches["model"] for report in made.reports(1)] == [MODEL]
            bring_up(made, revision(store, 2, predictor(answer='"new"')))
            made.set_traffic(Traffic(((1, 0), (2, 100))))
            assert ask(made) == (200, ["new"])


def test_machine_that_does_not_let_us_in_says_what_ssh_said(host: Host, store: Store) -> None:
    need("ssh")
    made = DockerTarget("ssh://nobody@127.0.0.1:1", MODEL, Exposure(), store=store, host=host)
    with pytest.raises(EngineError) as caught:
        made.prepare(revision(store, 1))
    assert "refused" in str(caught.value) and "docker version" in str(caught.value)
