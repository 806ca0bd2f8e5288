"""A home, a project, images and a Docker engine: everything that rollouts are measured on, gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace
from support.cli import environment, intermodal, world_folder
from support.engines import docker
from support.gateways import free_port
from support.load import Load
from support.served_image import body, golden, predictor, served_image

from intermodal.events import SILENT
from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.targets.docker import DockerTarget
from intermodal_server.contract import ServeSettings

MODEL = "parity"
LIVE = 100.0  # golden cases ask for smaller numbers
RATE_PER_S = 100.0
PROJECT = """
[model]
name = "{model}"
predictor = "app:Model"
[deploy]
target = "local"
port = {port}
strategy = "canary"
steps = [{{ weight = 50, min_requests = 100 }}]
bake = "1s"
"""
PATIENCE_S = 120.0


def users(rng: Random) -> dict[str, Any]:
    """What is asked."""
    return body([LIVE + rng.randrange(100)])


@dataclass
class Ground:
    """Where it happens."""

    home: Path
    port: int
    variables: dict[str, str]
    made: list[str] = field(default_factory=list)

    @property
    def host(self) -> Host:
        """This machine, as the commands see it."""
        return replace(read(), environment={**environment(self.home), **self.variables})

    @property
    def store(self) -> Store:
        """Where images are."""
        return Store(self.host.data_dir / "store").open_or_create()

    @property
    def target(self) -> DockerTarget:
        """The target, asked without the command line."""
        return DockerTarget("local", MODEL, Exposure(port=self.port), store=self.store, host=self.host, events=SILENT)

    def image(self, *, bad: bool = False) -> str:
        """The name of a new image, one line different from all before, in the store and in the engine."""
        line = f"# {len(self.made)}" + (f"\n        if x[0] >= {LIVE}: raise ValueError('no')" if bad else "")
        name = f"{MODEL}:{len(self.made) + 1}"
        source = predictor(extra=f"pass  {line}")
        served_image(self.store, name, source, model=MODEL, cases=golden(), serve=ServeSettings(drain_s=1.0))
        self.made.append(name)
        self.run("load", name, "--into", "docker")
        return name

    def run(self, *words: str, code: int = 0) -> None:
        """`intermodal WORDS`.

        Raises:
            RuntimeError: it ended otherwise.
        """
        done = intermodal(*words, home=self.home, env=self.variables)
        if done.code != code:
            raise RuntimeError(f"intermodal {' '.join(words)} ended with {done.code}\n{done.out}{done.err}")

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """`intermodal WORDS`, not waited for."""
        return subprocess.Popen(
            [sys.executable, "-m", "intermodal", *words],
            cwd=self.home,
            env={**environment(self.home), **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def load(self) -> Load:
        """Users."""
        return Load(self.port, f"/v2/models/{MODEL}/infer", users, RATE_PER_S)

    def down(self) -> None:
        """Take everything away."""
        until_s = time.monotonic() + PATIENCE_S
        with suppress(Exception):  # the daemon's folder goes in any case
            target = self.target
            target.down()
            while time.monotonic() < until_s and target._machine.containers(model=MODEL):
                time.sleep(0.2)
                target.down()
            target.down()


@contextmanager
def ground() -> Iterator[Ground]:
    """The ground, with a Docker daemon of its own."""
    with ExitStack() as stack:
        home = stack.enter_context(world_folder())
        made = Ground(home, free_port(), dict(stack.enter_context(docker()).variables))
        (home / "intermodal.toml").write_text(PROJECT.format(model=MODEL, port=made.port))
        stack.callback(made.down)
        yield made
