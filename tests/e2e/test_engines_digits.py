"""The digits example in docker and podman: checked, loaded by kilobytes, served, also by an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import engines
from support.cli import CHECKOUT, environment, give, intermodal, world_folder

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.xdist_group("engines")]
USER = 54323


@dataclass(frozen=True)
class Digits:
    """A built copy of the example, and the engines of this module."""

    folder: Path
    project: Path
    variables: Mapping[str, str]

    def run(self, *words: str | Path) -> Any:
        done = intermodal(*words, "--json", home=self.folder / "home", env=self.variables)
        assert done.code == 0, done.out + done.err
        return done.json


@pytest.fixture(scope="module")
def digits() -> Iterator[Digits]:
    with ExitStack() as stack:
        folder = stack.enter_context(world_folder())
        variables: dict[str, str] = {}
        for engine in (engines.docker, engines.podman, engines.containerd):
            variables |= stack.enter_context(engine()).variables
        project = folder / "digits"
        shutil.copytree(CHECKOUT / "examples" / "digits", project)
        (project / "pylock.intermodal.toml").unlink(missing_ok=True)  # a new one, whatever the server is now
        (folder / "home").mkdir()
        found = Digits(folder, project, variables)
        found.run("build", project)
        yield found


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_the_golden_cases_hold_behind_every_wall(digits: Digits, engine: str) -> None:
    report = digits.run("check", digits.project, "--engine", engine)
    assert report["passed"], report
    assert report["engine"] == engine
    assert report["isolation"] == "full"
    assert all(report["hardening"].values())
    assert report["golden"]["cases"] > 0
    assert report["golden"]["recorded_in"] == "training"


@pytest.mark.parametrize("engine", ["docker", "podman", "containerd"])
def test_another_setting_moves_kilobytes(digits: Digits, engine: str) -> None:
    first = digits.run("load", digits.project, "--into", engine)
    assert digits.run("load", digits.project, "--into", engine)["layers_sent"] == 0
    settings = digits.project / "intermodal.toml"
    text = settings.read_text()
    assert "[serve]" not in text
    try:
        settings.write_text(f"{text}\n[serve]\ntimeout_s = 29.0\n")
        changed = digits.run("load", digits.project, "--into", engine)
    finally:
        settings.write_text(text)
    assert changed["image"] != first["image"] or engine == "containerd"
    assert changed["layers_sent"] == 1
    assert changed["bytes_sent"] < 100_000


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_loaded_image_serves_under_the_engines_own_command(digits: Digits, engine: str) -> None:
    loaded = digits.run("load", digits.project, "--into", engine, "--name", "digits:served")
    program = engines.need("podman") if engine == "podman" else shutil.which("docker")
    if program is None:
        engines.omit("there is no docker program")
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"] if engine == "podman" else []
    environment = {**os.environ, **digits.variables, "DOCKER_API_VERSION": "1.41"}
    words = [str(program), "run", "--rm", "--detach", "--network", "none", "--read-only", "--tmpfs", "/tmp", *limits]
    started = subprocess.run([*words, loaded["name"]], env=environment, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        ready = [str(program), "exec", container, "/usr/bin/python3.11", "-I", "-S", "-c", READY]
        done = subprocess.run(ready, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "200", done.stderr
    finally:
        subprocess.run([str(program), "rm", "--force", container], env=environment, capture_output=True, check=False)


READY = """
import http.client, time
for _ in range(600):
    try:
        c = http.client.HTTPConnection("127.0.0.1", 8080, timeout=5)
        c.request("GET", "/v2/health/ready")
        status = c.getresponse().status
        if status == 200:
            break
    except OSError:
        pass
    time.sleep(0.1)
print(status)
"""


def test_an_ordinary_user_in_the_docker_group_checks_it_too(digits: Digits) -> None:
    if os.getuid() != 0:
        engines.omit("only root can become another user")
    python = engines.everybodys_python(USER)
    home = digits.folder / "other"
    home.mkdir()
    shutil.copytree(digits.folder / "home" / "data", home / "data")
    give(home, USER)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    variables = {**environment(home, home / "cache"), **digits.variables, "PYTHONPATH": f"{CHECKOUT / 'src'}:{site}"}
    words = ["env", "-i", *(f"{k}={v}" for k, v in variables.items()), python, "-m", "intermodal"]
    who = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={engines.GROUP}", "--inh-caps=-all"]
    done = subprocess.run(
        [*who, *words, "check", "digits", "--engine", "docker", "--json"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["isolation"] == "full"


def test_an_archive_for_docker_load_and_a_lock_kept_elsewhere(digits: Digits) -> None:
    plain = digits.run("build", digits.project)
    archive, lock = digits.folder / "digits.tar", digits.folder / "elsewhere.toml"
    shutil.copyfile(digits.project / "pylock.intermodal.toml", lock)
    beside = lock.read_bytes()
    built = digits.run("build", digits.project, "--lock", lock, "-o", f"docker-archive:{archive}")
    assert built["digest"] == plain["digest"]
    assert lock.read_bytes() == beside
    with tarfile.open(archive) as opened:
        (named,) = json.load(opened.extractfile("manifest.json") or pytest.fail("no manifest.json"))
        assert set(named["Layers"]) | {named["Config"]} <= set(opened.getnames())
    assert sorted(path.name for path in digits.folder.iterdir() if path.name.startswith(".")) == []
    podman = engines.need("podman")
    loaded = subprocess.run(
        [podman, "load", "--quiet", "--input", archive],
        env={**os.environ, **digits.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert "digits:1.0.0" in loaded.stdout
