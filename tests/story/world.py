"""A user with a home, a project and the command line, and the engine that revisions run in.

Takes a target's name, hands on a `World` in which `intermodal` is run as a person would; nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from support.cli import Result, environment, intermodal, world_folder
from support.engines import Running, docker
from support.gateways import free_port

from intermodal.events import SILENT
from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.target import Target
from intermodal.rooms.deploy.targets import get_target
from story.revisions import MODEL

PROJECT = """\
[model]
name = "{model}"
predictor = "app:Model"

[deploy]
target = "{target}"
port = {port}
strategy = "canary"
replicas = {replicas}
bake = "{bake}"
max_hold = "{max_hold}"
steps = [{{ weight = 10, min_requests = {few} }}, {{ weight = 50, min_requests = {many} }}]
"""


@dataclass
class World:
    """A home, a project, a port."""

    home: Path
    target: str
    port: int
    variables: dict[str, str]
    engine: Running | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    begun: list[subprocess.Popen[str]] = field(default_factory=list)  # ended with the world at the latest

    @property
    def host(self) -> Host:
        """This machine, as the commands see it."""
        here = read()
        return replace(here, environment={**environment(self.home), **self.variables})

    @property
    def store(self) -> Store:
        """Where images are."""
        return Store(self.host.data_dir / "store").open_or_create()

    def place(self, model: str = MODEL, **exposure: Any) -> Target:
        """The target, asked without the command line."""
        where = Exposure(**{"port": self.port, **exposure})
        return get_target(self.target, model, where, store=self.store, host=self.host, events=SILENT)

    def configure(
        self, *, few: int = 150, many: int = 300, bake: str = "2s", max_hold: str = "2s", replicas: int = 1
    ) -> None:
        """Write the project file."""
        words = {"target": self.target, "port": self.port, "few": few, "many": many, "bake": bake}
        text = PROJECT.format(model=MODEL, max_hold=max_hold, replicas=replicas, **words)
        (self.home / "intermodal.toml").write_text(text)

    def run(self, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 300) -> Result:
        """`intermodal WORDS --json`."""
        began_s = time.monotonic()
        done = intermodal(*words, "--json", home=self.home, env={**self.variables, **(env or {})}, timeout_s=timeout_s)
        self.seconds[" ".join(words)] = time.monotonic() - began_s
        return done

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """`intermodal WORDS --json`, not waited for."""
        process = subprocess.Popen(
            [sys.executable, "-m", "intermodal", *words, "--json"],
            cwd=self.home,
            env={**environment(self.home), **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.begun.append(process)
        return process

    def status(self) -> dict[str, Any]:
        """`intermodal status MODEL`."""
        done = self.run("status", MODEL)
        assert done.code == 0, done
        found: dict[str, Any] = json.loads(done.out)
        return found


def complaint(done: Result) -> str:
    """What a command that could not do it says: what was tried, what was found, and what to do next."""
    assert done.code not in (0, 1) and "Traceback" not in done.err, done
    said = json.loads(done.out)
    assert said["error"] and said["next"], said
    return "; ".join([said["error"], *said["found"], *said["next"]])


@contextmanager
def world(target: str) -> Iterator[World]:
    """A world of its own on this machine; with a Docker daemon of its own for the target `local`."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(world_folder())
        engine = stack.enter_context(docker()) if target == "local" else None
        variables = dict(engine.variables) if engine else {}
        made = World(home, target, free_port(), variables, engine)
        made.configure()
        stack.callback(_take_down, made)
        yield made


def _take_down(made: World) -> None:
    """End everything, whatever state it is in: the route, the containers, and the images' layers with their daemon."""
    for process in made.begun:
        if process.poll() is None:
            process.kill()
            process.communicate()
    place = made.place()
    until_s = time.monotonic() + 60
    with contextlib.suppress(Exception):  # the daemon may be gone, and its folder goes in any case
        place.down()
        while time.monotonic() < until_s and any(one.containers for one in place.seen(range(1, 200)).values()):
            time.sleep(0.2)
            place.down()
        place.down()
