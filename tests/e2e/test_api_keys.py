"""A server that wants API keys, deployed, run and rendered: it gets them, golden cases pass, and strangers stay out."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.cli import environment, intermodal, world_folder
from support.engines import docker, need
from support.gateways import free_port
from support.served_image import body, golden, predictor, served_image

from intermodal.host import read
from intermodal.oci.layout import Store
from intermodal.project.api_keys import ApiKey, make_key
from intermodal_server.contract import ServeSettings

pytestmark = [pytest.mark.network, pytest.mark.sandbox, pytest.mark.slow]
MODEL, IMAGE = "parity", "parity:1"
PATIENCE_S = 60.0


class Place:
    """A user's home with an image that wants keys, a file of them, and perhaps an engine."""

    def __init__(self, home: Path, variables: dict[str, str]) -> None:
        self.home, self.port = home, free_port()
        self.alice: ApiKey = make_key("alice")
        self.golden: ApiKey = make_key("golden")
        self.variables = {**variables, "GOLDEN": self.golden.key}
        self.keys = home / "keys"
        self.keys.write_text(f"{self.alice.line}\n{self.golden.line}\n")
        store = Store(replace(read(), environment=environment(home)).data_dir / "store").open_or_create()
        serve = ServeSettings(drain_s=0.8, api_keys="file:/run/secrets/keys")
        served_image(store, IMAGE, predictor(), cases=golden(), serve=serve)

    def run(self, *words: str) -> tuple[int, str]:
        """`intermodal WORDS`: its status and what it said."""
        done = intermodal(*words, home=self.home, env=self.variables)
        return done.code, done.out + done.err

    def ask(self, key: str = "") -> int:
        """The status of a request with a key; 0 for no answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"X-API-Key": key} if key else {}
            connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps(body([2.0])), headers)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()


@contextmanager
def place(target: str) -> Iterator[Place]:
    """A place; what was deployed is taken down."""
    with ExitStack() as stack:
        home = stack.enter_context(world_folder())
        variables = dict(stack.enter_context(docker()).variables) if target == "local" else {}
        made = Place(home, variables)
        if target in ("local", "sandbox"):
            stack.callback(lambda: made.run("down", MODEL))
        yield made


@pytest.mark.parametrize("target", ["sandbox", "local"])
def test_deployed_with_keys(target: str) -> None:
    with place(target) as here:
        deploy = ("deploy", IMAGE, "--to", target, "--port", str(here.port), "--bake", "0s")
        code, said = here.run(*deploy)
        assert code == 2 and "--api-keys FILE" in said, said
        code, said = here.run(*deploy, "--api-keys", "keys")
        assert code == 2 and "--golden-key" in said, said
        code, said = here.run(*deploy, "--api-keys", "keys", "--golden-key", "env:GOLDEN")
        assert code == 0, said
        assert [here.ask(), here.ask("im_wrong"), here.ask(here.alice.key)] == [401, 401, 200]


def test_run_without_keys_ends_at_once() -> None:
    with place("") as here:
        code, said = here.run("run", IMAGE, "--port", str(here.port))
        assert code == 2 and "--api-keys FILE" in said, said


def test_composed_with_keys() -> None:
    with place("local") as here:
        code, said = here.run("render", IMAGE, "--format", "compose", "-o", "out", "--port", str(here.port), "--json")
        assert code == 0, said
        load = [line for line in json.JSONDecoder().raw_decode(said)[0]["next"] if line.startswith("intermodal load")]
        assert "api-keys" in said and all(here.run(*line.split()[1:])[0] == 0 for line in load)
        (here.home / "out" / "secrets" / "api-keys").write_text(here.alice.line)
        variables = {**environment(here.home), **here.variables, "COMPOSE_PROJECT_NAME": "im"}
        words = {"cwd": here.home / "out", "env": variables, "capture_output": True}
        program = need("docker-compose")
        try:
            subprocess.run([program, "up", "-d"], check=True, **words)
            until_s = time.monotonic() + PATIENCE_S
            while here.ask(here.alice.key) != 200:
                assert time.monotonic() < until_s
                time.sleep(0.2)
            assert [here.ask(), here.ask(here.golden.key)] == [401, 401]
        finally:
            subprocess.run([program, "down", "--volumes", "--timeout", "5"], check=True, **words)
