"""The target `sandbox`: what happens to it, and that it says so clearly. No mocks: containers, Envoy, keepers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from kill_watchers import Campaign
from msgspec.structs import replace
from support.cli import SHARED_CACHE
from support.gateways import free_port
from support.load import Load
from support.served_image import body, golden, predictor, served_image

from intermodal import rollouts
from intermodal.errors import EngineError, InputError, PortTakenError, RolloutBusyError, StoreError
from intermodal.events import SILENT
from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.live import replay
from intermodal.rooms.deploy.revision import Exposure, Revision, Settings
from intermodal.rooms.deploy.state import StateFile
from intermodal.rooms.deploy.target import Traffic
from intermodal.rooms.deploy.targets.kept import Kept
from intermodal.rooms.deploy.targets.sandbox import SandboxTarget
from intermodal.rooms.deploy.wish import Overrides

pytestmark = [pytest.mark.network, pytest.mark.sandbox, pytest.mark.slow]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    data = tmp_path_factory.mktemp("data")
    here = read()
    variables = {"XDG_DATA_HOME": str(data), "XDG_CACHE_HOME": str(SHARED_CACHE)}
    return replace(here, environment={**here.environment, **variables})


@pytest.fixture(scope="module")
def store(host: Host) -> Store:
    return Store(host.data_dir / "store").open_or_create()


def wait(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.05)


class Tried:
    """A target with one revision in service, and its parts."""

    def __init__(self, host: Host, store: Store, model: str, **exposure: object) -> None:
        self.host, self.store, self.model = host, store, model
        self.exposure = replace(Exposure(port=free_port()), **exposure)
        self.target = SandboxTarget(model, self.exposure, store=store, host=host)

    def revision(self, number: int, source: str = "", **settings: object) -> Revision:
        made = served_image(
            self.store, f"{self.model}:{number}", source or predictor(), model=self.model, cases=golden()
        )
        return Revision(number, str(made.digest), str(made.digest), Settings(**settings))  # type: ignore[arg-type]

    def bring_up(self, one: Revision) -> None:
        self.target.prepare(one)
        self.target.start(one)
        self.healthy(one.number, one.settings.replicas)

    def healthy(self, number: int, replicas: int = 1) -> None:
        wait(
            lambda: self.target.tend() == "" and self.target.seen([number])[number].healthy >= replicas,
            f"{replicas} healthy of revision {number}",
        )

    def replica(self, number: int, index: int = 0) -> Kept:
        return Kept(self.host.data_dir / "deploy" / "sandbox" / "models" / self.model / f"r{number}" / str(index))

    @property
    def gateway(self) -> Kept:
        return Kept(self.host.data_dir / "deploy" / "sandbox" / "gateway")

    def ask(self, path: str | None = None) -> int:
        prefix = self.exposure.path.rstrip("/")
        connection = self.target.connect(30)
        try:
            connection.request("POST", path or f"{prefix}/v2/models/{self.model}/infer", json.dumps(body([2.0])))
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()

    def gone(self) -> None:
        self.target.down()
        numbers = self.target._numbers()
        wait(
            lambda: self.target.down() is None and not any(
                seen.containers for seen in self.target.seen(numbers).values()
            ),
            "nothing to be left",
        )  # fmt: skip


@pytest.fixture
def tried(host: Host, store: Store) -> Iterator[Tried]:
    made = Tried(host, store, "parity")
    try:
        yield made
    finally:
        made.gone()
        wait(lambda: not made.gateway.lives, "the gateway to end")


def test_what_dies_comes_back_and_nobody_is_lost_where_there_are_two(tried: Tried) -> None:
    """Killed one after the other: a replica's model, its keeper; then Envoy, and its keeper."""
    target = tried.target
    tried.bring_up(tried.revision(1, replicas=2))
    target.set_traffic(Traffic(((1, 100),)))
    with Load(tried.exposure.port, "/v2/models/parity/infer", lambda _: body([2.0]), 60) as load:
        wait(lambda: load.answers["1", 200] > 20, "answers")
        os.kill(tried.replica(1, 0).status["pid"], signal.SIGKILL)
        wait(lambda: tried.replica(1, 0).status.get("ends") == 1, "the keeper to notice")
        tried.healthy(1, 2)
        before = int((tried.replica(1, 1).folder / "pid").read_text())
        os.kill(before, signal.SIGKILL)
        wait(lambda: not tried.replica(1, 1).lives, "the keeper's lock to be free")
        target.start(tried.revision(1, replicas=2))
        tried.healthy(1, 2)
        assert int((tried.replica(1, 1).folder / "pid").read_text()) != before
    assert load.lost == [], load.lost[:3]
    born = tried.gateway.status["born"]
    os.kill(tried.gateway.status["pid"], signal.SIGKILL)
    wait(lambda: tried.gateway.status.get("born", born) != born, "the keeper to start Envoy again")
    wait(lambda: target.traffic() == Traffic(((1, 100),)), "the gateway to do as before")
    tried.healthy(1, 2)
    assert tried.ask() == 200
    envoy = tried.gateway.status["pid"]
    os.kill(int((tried.gateway.folder / "pid").read_text()), signal.SIGKILL)
    wait(lambda: not Path(f"/proc/{envoy}").exists(), "Envoy to go with its keeper")
    assert target.traffic() is None and target.scrape([1]) is None
    tried.healthy(1, 2)
    wait(lambda: target.traffic() == Traffic(((1, 100),)), "the gateway to do as before")
    assert tried.ask() == 200


def test_golden_cases_reach_a_revision_without_traffic_and_count_for_nothing(tried: Tried) -> None:
    target = tried.target
    tried.bring_up(tried.revision(1))
    target.set_traffic(Traffic(((1, 100),)))
    bad = tried.revision(2, predictor(answer='"even"'))
    bad = replace(bad, settings=Settings(environment=(("INTERMODAL_START_CHECK", "off"),)))
    tried.bring_up(bad)
    for one, passed in ((tried.revision(1), True), (bad, False)):
        found = replay(target, one.number, tried.exposure, rollouts._metadata(one, tried.store, tried.host, SILENT))
        assert (found.passed, found.cases) == (passed, 3), found
    assert found.problems[0] == "case 3: label[0] is 'even', 'odd' was recorded"
    scraped = target.scrape([1, 2])
    assert scraped is not None and [scraped.live[number].requests for number in (1, 2)] == [0, 0]
    (report,) = target.reports(2)
    asked = {traffic: sum(one["codes"].values()) for traffic, one in report.sketches["requests"].items()}
    assert {traffic for traffic, count in asked.items() if count} <= {"golden", "override"}, asked
    target.stop(2)
    wait(lambda: not target.seen([2])[2].containers, "revision 2 to end")
    with pytest.raises(EngineError, match="still has traffic"):
        target.stop(1)
    assert replay(target, 2, tried.exposure, rollouts._metadata(bad, tried.store, tried.host, SILENT)).passed in (
        None,
        False,
    )


def test_golden_cases_bring_a_key_where_the_server_wants_one(tried: Tried) -> None:
    key = "im_" + "k" * 43
    line = f"keys:golden:{hashlib.sha256(key.encode()).hexdigest()}"
    closed = replace(tried.revision(1), settings=Settings(environment=(("INTERMODAL_API_KEYS", line),)))
    tried.bring_up(closed)
    about = rollouts._metadata(closed, tried.store, tried.host, SILENT)
    without = replay(tried.target, 1, tried.exposure, about)
    assert without.passed is None and "golden_key" in without.problems[0]
    assert replay(tried.target, 1, tried.exposure, about, key).passed is True


def test_several_models_on_one_gateway_each_on_its_own(tried: Tried, host: Host, store: Store) -> None:
    tried.bring_up(tried.revision(1))
    tried.target.set_traffic(Traffic(((1, 100),)))
    other = Tried(host, store, "other", port=tried.exposure.port, path="/other")
    try:
        other.bring_up(other.revision(1))
        other.target.set_traffic(Traffic(((1, 100),)))
        assert (tried.ask(), other.ask()) == (200, 200)
        assert tried.ask("/v2/models/other/infer") == 404, "the other model is elsewhere"
        third = Tried(host, store, "third", port=tried.exposure.port)
        with pytest.raises(InputError, match="does not fit on this gateway") as told:
            third.target.prepare(third.revision(1))
        assert "both offered" in str(told.value)
    finally:
        other.gone()
    assert (tried.ask(), other.ask()) == (200, 404)


def test_a_taken_port_and_a_lost_image_are_told(tried: Tried) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        taken = Tried(tried.host, tried.store, "parity", port=somebody.getsockname()[1])
        with pytest.raises(PortTakenError, match="somebody else listens"):
            taken.target.prepare(taken.revision(1))
    lost = tried.revision(9, predictor(start="# lost"))
    tried.store.path(lost.image).unlink()
    with pytest.raises(StoreError, match=r"missing|not there|cannot read"):
        tried.target.prepare(lost)
    tried.target.start(lost)
    wait(lambda: tried.target.seen([9])[9].problem, "the keeper to say why")
    assert "ended 2 times" in tried.target.seen([9])[9].problem


def test_who_lost_their_folder_end(tried: Tried) -> None:
    tried.bring_up(tried.revision(1))
    folder, replica = tried.replica(1).folder, tried.replica(1)
    pids = [int((folder / "pid").read_text()), replica.status["pid"]]
    shutil.rmtree(folder)
    wait(lambda: not any(Path(f"/proc/{pid}/root").exists() for pid in pids), "the keeper and its container to end")


def test_of_two_deploys_at_once_one_is_told_who_is_at_it(tried: Tried, host: Host) -> None:
    tried.revision(1)
    wanted = Overrides(target="sandbox", port=tried.exposure.port)
    with StateFile.of(host) as state, state.writer("sandbox", "parity", "intermodal deploy parity, process 1"):
        with pytest.raises(RolloutBusyError, match="intermodal deploy parity, process 1"):
            rollouts.deploy("parity:1", host=host, overrides=wanted)
        assert state.models() == () and not tried.target.seen([1])[1].containers


def test_watchers_that_are_killed_are_replaced_by_others() -> None:
    """A small number of what `kill_watchers` does a hundred times."""
    assert Campaign("sandbox", seed=3).run(2) == 0
