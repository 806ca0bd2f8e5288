"""Two models whose libraries exclude each other behind one gateway, by host and by path, each rolled out on its own."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.cli import environment, intermodal, world_folder
from support.engines import docker
from support.envs import CHECKOUT
from support.gateways import free_port

from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy.plan import REVISION_HEADER
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.targets import bodies
from intermodal.rooms.deploy.targets.docker import DockerTarget
from intermodal.rooms.deploy.targets.machine import Machine

pytestmark = [pytest.mark.network, pytest.mark.slow]
OLD, NEW = "conflict-old", "conflict-new"
EXPOSED = {OLD: 'host = "old.example.com"', NEW: 'path = "/models/new"'}
LIBRARY = {OLD: "scikit_learn-1.3.2", NEW: "scikit_learn-1.9.1"}
SITE = "/opt/venv/lib/python3.11/site-packages"
DEPLOY = """
[serve]
drain_s = 1.0
[deploy]
target = "local"
port = {port}
{exposed}
strategy = "canary"
steps = [{{ weight = 50, min_requests = 50 }}]
bake = "1s"
[deploy.analysis]
slow_ratio = 10.0
"""
LOCKS = shutil.ignore_patterns("pylock.*")  # made anew, for the server as it is now
BETWEEN_S = 0.02


@dataclass
class User:
    """Asks one model for its golden cases, again and again, and compares each answer; `with` ends it."""

    model: str
    port: int
    headers: dict[str, str]
    prefix: str = ""
    answers: Counter[str] = field(default_factory=Counter)  # right ones, by revision
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        cases = json.loads((CHECKOUT / "examples" / self.model / "golden.json").read_text())["cases"]
        self._cases = [(json.dumps(case["request"]), case["response"]["outputs"]) for case in cases]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def __enter__(self) -> User:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask_on(self) -> None:
        number = 0
        while not self._ended.wait(BETWEEN_S):
            number += 1
            try:
                revision, fault = self.ask(number)
            except (OSError, HTTPException) as error:
                revision, fault = "", repr(error)
            if fault:
                self.wrong.append(fault)
            else:
                self.answers[revision] += 1

    def ask(self, number: int = 0) -> tuple[str, str]:
        """The revision that answered, and what was wrong with its answer."""
        request, outputs = self._cases[number % len(self._cases)]
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", f"{self.prefix}/v2/models/{self.model}/infer", request, self.headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                return "", f"{answer.status}: {text!r}"
            given = {one["name"]: one["data"] for one in json.loads(text)["outputs"]}
            fault = "" if all(given[one["name"]] == pytest.approx(one["data"]) for one in outputs) else f"not {outputs}"
            return answer.headers[REVISION_HEADER], fault
        finally:
            connection.close()


@dataclass
class Place:
    """A user's home, two projects and an engine."""

    home: Path
    port: int
    variables: dict[str, str]

    @property
    def machine(self) -> Machine:
        """The engine, as the target sees it."""
        variables = {**environment(self.home), **self.variables}
        host: Host = replace(read(), environment=variables)
        store = Store(host.data_dir / "store").open_or_create()
        return DockerTarget("local", OLD, Exposure(port=self.port), store=store, host=host)._machine

    def project(self, model: str) -> None:
        """A copy of the example, to be offered on the one gateway."""
        folder = shutil.copytree(CHECKOUT / "examples" / model, self.home / model, ignore=LOCKS)
        with (folder / "intermodal.toml").open("a") as file:
            file.write(DEPLOY.format(port=self.port, exposed=EXPOSED[model]))

    def new_version(self, model: str, version: str) -> None:
        """Another image of the same model."""
        path = self.home / model / "intermodal.toml"
        path.write_text(path.read_text().replace('version = "1.0.0"', f'version = "{version}"'))

    def run(self, *words: str) -> Any:
        """`intermodal WORDS --json`, which must succeed."""
        done = intermodal(*words, "--json", home=self.home, env=self.variables)
        assert done.code == 0, done.err
        return done.json

    def deploy(self, model: str) -> Any:
        """`intermodal deploy` of the project, which must be promoted."""
        found = self.run("deploy", str(self.home / model))
        assert found["rollout"]["phase"] == "promoted", found["rollout"]
        return found

    def containers(self, model: str) -> dict[str, int]:
        """A model's containers that are alive, and how often each was started again."""
        machine = self.machine
        found = [one for one in machine.containers(model=model) if one.alive]
        return {one.id: int(machine.inspect(one.id)["RestartCount"]) for one in found}

    def holds(self, model: str, library: str) -> bool:
        """Whether a model's container has this library."""
        machine = self.machine
        (found,) = (one for one in machine.containers(model=model) if one.alive)
        query = {"path": SITE}
        with machine.api.stream("GET", f"/containers/{found.id}/archive", query=query) as response:
            return f"/{library}.dist-info/METADATA".encode() in response.read()

    def down(self) -> None:
        """Take both away."""
        for model in (OLD, NEW):
            intermodal("down", model, home=self.home, env=self.variables)


@contextmanager
def place() -> Iterator[Place]:
    """A home and a Docker daemon of its own."""
    with ExitStack() as stack:
        home = stack.enter_context(world_folder())
        made = Place(home, free_port(), dict(stack.enter_context(docker()).variables))
        stack.callback(made.down)
        for model in (OLD, NEW):
            made.project(model)
        yield made


def test_each_is_rolled_out_on_its_own_while_the_other_keeps_answering() -> None:
    with place() as here:
        for model in (OLD, NEW):
            here.deploy(model)
        assert [one.labels[bodies.LABEL] for one in here.machine.containers()].count("gateway") == 1
        for model, other in ((OLD, NEW), (NEW, OLD)):
            assert here.holds(model, LIBRARY[model]) and not here.holds(model, LIBRARY[other])
        old = User(OLD, here.port, {"Host": "old.example.com"})
        new = User(NEW, here.port, {}, "/models/new")
        with old, new:
            for model, user, other in ((OLD, new, NEW), (NEW, old, OLD)):
                before, untouched, answered = here.run("status", other), here.containers(other), user.answers.copy()
                here.new_version(model, "1.1.0")
                found = here.deploy(model)
                assert [one["live_percent"] for one in found["revisions"]] == [0, 100]
                assert found["revisions"][0]["digest"] != found["revisions"][1]["digest"]
                after = here.run("status", other)
                assert (after["revisions"], here.containers(other)) == (before["revisions"], untouched)
                gained = user.answers - answered
                assert list(gained) == [str(len(before["revisions"]))] and gained.total() > 50, (gained, user.wrong)
            back = here.run("rollback", OLD)
            assert [one["live_percent"] for one in back["revisions"]] == [100, 0]
            until_s = time.monotonic() + 60
            while old.ask()[0] != "1":
                assert time.monotonic() < until_s, "the gateway's threads never followed"
        assert new.ask() == ("2", "")
        for user in (old, new):
            assert user.wrong == [] and set(user.answers) == {"1", "2"}
        assert User(NEW, here.port, {"Host": "old.example.com"}).ask()[1].startswith("404"), "the other's host"
