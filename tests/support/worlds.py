"""A world of revisions, replicas and a gateway in memory, in which watchers live, die and are replaced.

It keeps the promises of `deploy.target` and checks that whoever uses it keeps the rules: each broken rule is an
`AssertionError` at the call that broke it.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from intermodal.errors import EngineError, StoreError
from intermodal.rooms.deploy.live import Replayed
from intermodal.rooms.deploy.revision import Exposure, Revision, Settings
from intermodal.rooms.deploy.rollout import Command, Plan, Rollout
from intermodal.rooms.deploy.state import StateFile, Stored
from intermodal.rooms.deploy.target import Counters, ReplicaReport, Scrape, Seen, Traffic
from intermodal.rooms.watch.judge import Rules
from intermodal.rooms.watch.loop import Watcher
from intermodal.rooms.watch.memory import Memory
from intermodal.rooms.watch.observe import Setting

TARGET, MODEL = "memory", "digits"


class Killed(BaseException):
    """The watcher's process is gone."""


@dataclass
class Container:
    """What runs of a revision."""

    age: int = 0  # ticks
    ready: bool = False
    ending: bool = False


@dataclass
class Nature:
    """How a revision behaves."""

    starts_in: int = 1  # ticks until it is ready; a large number is never
    golden: bool | None = True
    errors: float = 0.0
    crashes: bool = False


class HandClock:
    """A clock that a test turns; as `Clock`, it never falls."""

    wall_s = 1000.0

    def __init__(self, last_s: float) -> None:
        self._base, self._began = max(self.wall_s, last_s), self.wall_s

    def now_s(self) -> float:
        """The time now."""
        return self._base + max(0.0, HandClock.wall_s - self._began)

    def words(self) -> str:
        """The time for people."""
        return f"at {self.now_s():g}"


@dataclass
class World:
    """Everything that is there; implements `Target` and `Replays`."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="im-", dir="/dev/shm")))
    natures: dict[int, Nature] = field(default_factory=dict)
    containers: dict[int, Container] = field(default_factory=dict)
    traffic_now: Traffic = field(default_factory=Traffic)
    gateway: bool = True
    born: int = 1
    counted: dict[int, list[int]] = field(default_factory=dict)  # requests, errors
    copied: dict[int, list[int]] = field(default_factory=dict)
    answered: dict[tuple[int, str], int] = field(default_factory=dict)  # what the servers themselves counted
    passed: set[int] = field(default_factory=set)  # revisions whose golden cases have passed on the live endpoint
    failed: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)
    countdown: int | None = None  # effects until the watcher dies
    requests_per_tick: int = 200
    disk_full: bool = False
    let_go_s: dict[int, float] = field(default_factory=dict)  # when a revision lost its last share of the traffic
    name: str = TARGET
    model: str = MODEL

    def __post_init__(self) -> None:
        self.state = StateFile(self.folder / "state.db", make_clock=HandClock)  # type: ignore[arg-type]
        self.rng = random.Random(1)

    def close(self) -> None:
        """Remove its files."""
        self.state.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- dying -----------------------------------------------------------------------------------------------------
    def effect(self) -> None:
        """Somewhere here the watcher may die."""
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown < 0:
                self.countdown = None
                raise Killed

    # --- time ------------------------------------------------------------------------------------------------------
    def pass_time(self, seconds: float = 1.0) -> None:
        """One tick: containers become ready or end, users ask."""
        HandClock.wall_s += seconds
        for number, container in list(self.containers.items()):
            nature = self.natures.setdefault(number, Nature())
            container.age += 1
            if container.ending and container.age >= 1:
                del self.containers[number]
            elif nature.crashes:
                container.ready = False
            else:
                container.ready = container.age >= nature.starts_in
        if not self.gateway:
            return
        for number, percent in self.traffic_now.weights:
            self._ask(self.counted, number, self.requests_per_tick * percent // 100)
        if self.traffic_now.mirror is not None:
            self._ask(self.copied, self.traffic_now.mirror, self.requests_per_tick)

    def _ask(self, counted: dict[int, list[int]], number: int, count: int) -> None:
        container, requests = self.containers.get(number), counted.setdefault(number, [0, 0])
        share = self.natures.setdefault(number, Nature()).errors if container and container.ready else 1.0
        requests[0] += count
        requests[1] += round(count * share)
        traffic = "live" if counted is self.counted else "mirror"
        self.answered[number, traffic] = self.answered.get((number, traffic), 0) + count

    # --- Target ----------------------------------------------------------------------------------------------------
    def prepare(self, revision: Revision) -> None:
        """Nothing has to be fetched."""

    def tend(self) -> str:
        """The gateway comes back as it was."""
        self.effect()
        if not self.gateway:
            self.gateway, self.born = True, self.born + 1
            self.counted.clear()
            self.copied.clear()
        return ""

    def _stored(self) -> Rollout:
        """What a stranger would read now."""
        with StateFile(self.state.path, make_clock=HandClock) as file:  # type: ignore[arg-type]
            model = file.model(TARGET, MODEL)
            assert model is not None
            stored = file.rollout(model)
            assert stored is not None
            return stored.rollout

    def start(self, revision: Revision) -> None:
        """A container, when there is none."""
        self.effect()
        rollout = self._stored()
        assert revision.number in (rollout.candidate, rollout.stable), "only what the rollout names is started"
        self.containers.setdefault(revision.number, Container())
        self.effect()

    def stop(self, revision: int) -> None:
        """The last healthy one is never asked to end."""
        self.effect()
        if self.traffic_now.percent(revision) or not self.gateway:
            raise EngineError("it has traffic, or nobody can tell")
        container = self.containers.get(revision)
        if container is not None and not container.ending:
            others = [number for number, one in self.containers.items() if number != revision and one.ready]
            rollout = self._stored()
            alone = rollout.stable is None and rollout.candidate == revision and not self.traffic_now.weights
            assert others or alone, "the last healthy revision is stopped"
            since_s = HandClock.wall_s - self.let_go_s.get(revision, -1e9)
            assert not 0 <= since_s < 1, "stopped while the gateway's threads may still send somebody there"
            container.ending, container.age = True, 0
        self.effect()

    def seen(self, revisions: Sequence[int]) -> Mapping[int, Seen]:
        """What is there."""
        found = {}
        for number in revisions:
            container = self.containers.get(number)
            problem = "ended 3 times" if container and self.natures.setdefault(number, Nature()).crashes else ""
            ready = bool(container and container.ready and not container.ending and self.gateway)
            found[number] = Seen(int(container is not None), int(ready), problem)
        return found

    def set_traffic(self, traffic: Traffic) -> None:
        """Weight goes only where somebody is ready, has passed, and where the stored state says so."""
        self.effect()
        if not self.gateway:
            raise EngineError("the gateway is gone")
        rollout = self._stored()
        for number, percent in traffic.weights:
            if percent > self.traffic_now.percent(number):
                container = self.containers.get(number)
                assert container is not None and container.ready, f"traffic to revision {number}, which is not ready"
                if number == rollout.candidate:
                    assert number in self.passed, "traffic before the golden cases have passed"
                    assert percent == rollout.weight_percent, "done before it was stored"
        if traffic.mirror is not None:
            assert rollout.mirror and traffic.mirror == rollout.candidate
        for number, percent in self.traffic_now.weights:
            if percent and not traffic.percent(number):
                self.let_go_s[number] = HandClock.wall_s
        self.traffic_now = traffic
        self.effect()

    def traffic(self) -> Traffic | None:
        """What holds, when there is somebody to tell."""
        return self.traffic_now if self.gateway else None

    def scrape(self, revisions: Sequence[int]) -> Scrape | None:
        """What was counted."""
        if not self.gateway:
            return None
        live, mirror = (
            {
                number: Counters(*counted.get(number, [0, 0]), 0, (), self.seen([number])[number].healthy)
                for number in revisions
            }
            for counted in (self.counted, self.copied)
        )
        return Scrape(live, mirror, str(self.born))

    def reports(self, revision: int) -> tuple[ReplicaReport, ...]:
        """Servers of this world all answer at the same pace: half in 1 ms, of the others one of ten late."""
        if revision not in self.containers:
            return ()
        asked = {}
        for traffic in ("live", "mirror"):
            count = self.answered.get((revision, traffic), 0)
            counts = [count // 2, count - count // 2 - count // 20, count // 20, 0]
            asked[traffic] = {"codes": {"200": count}, "rows": count, "duration_s": {"counts": counts}}
        return (ReplicaReport("a", {"duration_edges_s": [0.001, 0.01, 0.1], "requests": asked, "outputs": []}),)

    def connect(self, timeout_s: float) -> HTTPConnection:
        """Nobody connects: golden cases are answered here."""
        raise NotImplementedError

    def logs(self, revision: int, *, lines: int = 100) -> str:
        """None."""
        return ""

    def endpoint(self) -> str:
        """Nowhere."""
        return "http://nowhere/"

    def down(self) -> None:
        """Not used."""

    # --- Replays -----------------------------------------------------------------------------------------------------
    def begin(self, revision: Revision) -> None:
        """Ask for the golden cases."""
        self.effect()
        self.asked.append(revision.number)

    def result(self) -> Replayed | None:
        """What they said."""
        if not self.asked:
            return None
        number = self.asked.pop()
        container = self.containers.get(number)
        answered = container is not None and container.ready and self.gateway
        outcome = self.natures.setdefault(number, Nature()).golden if answered else None
        if outcome:
            self.passed.add(number)
        elif outcome is False:
            self.failed.add(number)
        return Replayed(number, outcome, 3)

    # --- watchers ----------------------------------------------------------------------------------------------------
    def deploy(self, plan: Plan, rules: Rules | None = None) -> Stored:
        """A new revision and its rollout."""
        with self.state.writer(TARGET, MODEL, "test") as writer:
            model = writer.declare(Exposure())
            digest = "sha256:" + f"{len(self.state.revisions(model)) + 1:064x}"
            begun = writer.begin(digest, digest, Settings(), Rollout(0, model.current, plan))
            setting = Setting(begun.rollout.candidate, begun.rollout.stable, settle_s=0.0)
            return writer.remember(begun, Memory(rules or Rules(), setting).text())

    def ask(self, command: Command) -> None:
        """Leave a command."""
        model = self.state.model(TARGET, MODEL)
        assert model is not None
        self.state.ask(model, command, "test")

    def watch(
        self,
        ticks: int,
        *,
        dies_after: int | None = None,
        seconds: float = 1.0,
        until: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Let a fresh watcher do so many rounds, or die; whether it has nothing left to do."""
        self.state.close()
        self.asked.clear()  # what a dead watcher asked for, nobody gets
        self.countdown = dies_after
        try:
            with (
                StateFile(self.state.path, make_clock=HandClock) as state,  # type: ignore[arg-type]
                state.writer(TARGET, MODEL, "a watcher") as writer,
            ):
                stored = state.rollout(writer.model)
                assert stored is not None
                watcher = Watcher(_Dying(writer, self), stored, self, self)  # type: ignore[arg-type]
                for _ in range(ticks):
                    if watcher.tick():
                        return True
                    self.pass_time(seconds)
                    if until():
                        break
        except Killed:
            pass
        finally:
            self.countdown = None
        return False

    @property
    def rollout(self) -> Rollout:
        """As stored."""
        return self._stored()


class _Dying:
    """A writer whose process may die before and after each thing that it writes."""

    def __init__(self, writer: Any, world: World) -> None:
        self._writer, self._world = writer, world

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._writer, name)
        if name not in ("intend", "done", "remember", "judged", "drop_request"):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._world.effect()
            if self._world.disk_full:
                raise StoreError("the disk is full")
            result = found(*arguments, **named)
            self._world.effect()
            return result

        return call


def steady(world: World) -> None:
    """From now on everybody behaves."""
    world.gateway = True
    for number, nature in world.natures.items():
        world.natures[number] = Nature(golden=False if number in world.failed else nature.golden)


__all__ = ["MODEL", "TARGET", "Container", "HandClock", "Killed", "Nature", "World", "replace", "steady"]
