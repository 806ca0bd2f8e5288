"""A Docker daemon of our own, and what it is asked to build: by hand-written Dockerfiles and by BentoML.

BuildKit is the one inside the daemon, so that nothing needs to be pulled; a client is looked for that can talk to it.
CPU seconds are those of the client, the daemon and everything the daemon started and waited for.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.build import workshop
from benchmarks.measure import Run, run

TICKS = os.sysconf("SC_CLK_TCK")
READY_S = 60.0
UV = "uv==0.13.9"


def cpu_of_tree(root: int) -> float:
    """CPU seconds of a process, its descendants, and all that they have waited for."""
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)], spent[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    total = 0
    for process in spent:
        above = process
        while above in parents and above != root:
            above = parents[above]
        if above == root:
            total += spent[process]
    return total / TICKS


@dataclass(frozen=True)
class Daemon:
    """A running daemon and a client that has BuildKit with it."""

    client: Path
    variables: Mapping[str, str]
    process: int

    def run(self, *words: str | Path, cwd: Path | None = None, program: Path | None = None) -> Run:
        """A command against the daemon, the daemon's own CPU included."""
        before = cpu_of_tree(self.process)
        done = run([program or self.client, *words], env=dict(self.variables), cwd=cwd)
        return replace(done, cpu_s=done.cpu_s + cpu_of_tree(self.process) - before)

    def start(self, image: str, port: int, path: str, *options: str) -> tuple[Run, str]:
        """From `docker run` until the server says it is ready, and the container; asked from within, without a network.

        A bridge is shared by all daemons of a machine, and the proxies of published ports add a second of their own.
        """
        began = time.perf_counter()
        container = self.run("run", "--detach", "--network", "none", *options, image).out.strip()
        process = json.loads(self.run("inspect", container).out)[0]["State"]["Pid"]
        with ThreadPoolExecutor(1) as inside:  # a thread that enters the container's network never leaves it
            ready = inside.submit(_await_ready, process, port, path).result()
        if not ready:
            raise RuntimeError(self.run("logs", container).out or f"{image} does not answer")
        return Run(time.perf_counter() - began, 0.0), container

    def remove(self, container: str) -> None:
        """Stop and forget a container."""
        self.run("rm", "--force", container)

    def layers(self, image: str) -> list[str]:
        """The diff ids of an image."""
        found: list[str] = json.loads(self.run("inspect", image).out)[0]["RootFS"]["Layers"]
        return found

    def pushed_bytes(self, image: str, there: Sequence[str] = ()) -> int:
        """What a push would send of an image: its layers by gzip level 6, without those that are `there` already."""
        saved = workshop.OUT / "saved.tar"
        self.run("save", "--output", saved, image)
        size = 0
        with tarfile.open(saved) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
            for diff_id, name in zip(self.layers(image), manifest["Layers"], strict=True):
                stream, squeeze = tar.extractfile(name), zlib.compressobj(6)
                if stream is None or diff_id in there:
                    continue
                while chunk := stream.read(1 << 20):
                    size += len(squeeze.compress(chunk))
                size += len(squeeze.flush())
        saved.unlink()
        return size


def _await_ready(process: int, port: int, path: str) -> bool:
    """Whether the server in a container's network answers 200 in time."""
    with Path(f"/proc/{process}/ns/net").open() as network:
        if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0):
            raise OSError(ctypes.get_errno(), "cannot enter the network of the container")
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    return False


@contextmanager
def daemon() -> Iterator[Daemon]:
    """A daemon that has the slim base, the wheels and uv as images, and nothing else."""
    sys.path.insert(0, str(workshop.CHECKOUT / "tests"))
    from support import engines

    with engines.docker() as running:
        process = int((running.folder / "pid").read_text())
        places = workshop.OUT / "client"
        shutil.rmtree(places, ignore_errors=True)
        places.mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER", "PIP_", "UV_", "PYTHON"))}
        variables = {**kept, **running.variables, "DOCKER_BUILDKIT": "1", "HOME": str(running.folder)}
        variables |= {"DOCKER_CONFIG": str(places / "config"), "BUILDKIT_PROGRESS": "plain"}
        client = _client(variables)
        (places / "docker").symlink_to(client)
        variables["PATH"] = f"{places}:{os.environ['PATH']}"
        found = Daemon(places / "docker", variables, process)
        found.run("import", "--change", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", workshop.slim_base(), "bench-slim")
        _import(
            found, "bench-wheels", [*sorted(workshop.wheels().glob("*.whl")), workshop.environment("uv", UV) / "uv"]
        )
        found.run("build", "--tag", "bench-slim-uv", "--file", workshop.PEERS / "bento-base.Dockerfile", workshop.PEERS)
        yield found


def _client(variables: Mapping[str, str]) -> Path:
    """A client that can use the BuildKit of the daemon (newer ones want a plug-in)."""
    trial = workshop.OUT / "trial"
    trial.mkdir(parents=True, exist_ok=True)
    (trial / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    for folder in dict.fromkeys(["/usr/bin", *os.environ["PATH"].split(":")]):
        client = Path(folder) / "docker"
        words = [str(client), "build", "--quiet", str(trial)]
        if client.exists() and not subprocess.run(words, env=dict(variables), capture_output=True).returncode:
            return client
    raise SystemExit("no docker client here can build with BuildKit (Debian: apt install docker.io)")


def _import(daemon: Daemon, name: str, files: Sequence[Path]) -> None:
    """An image with a few files; one for all, because a second mount in one RUN comes up empty when repeated."""
    path = workshop.OUT / f"{name}.tar"
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    daemon.run("import", path, name)


class Dockerfile:
    """A build context with one of the Dockerfiles, and its image."""

    def __init__(self, daemon: Daemon, kind: str, model: Path) -> None:
        self.daemon = daemon
        self.image = f"bench-{kind}"
        self.context = workshop.project(workshop.OUT / "contexts" / kind, model)
        shutil.copy(workshop.PEERS / "service.py", self.context)
        shutil.copy(workshop.PEERS / "requirements.txt", self.context)
        shutil.copy(workshop.PEERS / f"{kind}.Dockerfile", self.context / "Dockerfile")

    def build(self, *options: str) -> Run:
        """`docker build` of the context."""
        return self.daemon.run("build", "--network", "none", *options, "--tag", self.image, self.context)

    def require(self, line: str) -> None:
        """Put a line at the end of the requirements."""
        text = (workshop.PEERS / "requirements.txt").read_text()
        (self.context / "requirements.txt").write_text(f"{text}{line}\n")

    def start(self) -> tuple[Run, str]:
        """Run the image until it is ready."""
        return self.daemon.start(self.image, 8080, "/v2/health/ready")


class Bento:
    """A BentoML project: `bentoml build` and `bentoml containerize`."""

    image = "bench-bento"

    def __init__(self, daemon: Daemon, program: Path, index: str, model: Path) -> None:
        home = workshop.OUT / "bento-home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        self.daemon = replace(daemon, variables={**daemon.variables, "BENTOML_HOME": str(home), "DO_NOT_TRACK": "1",
                                                 "BENTOML_DO_NOT_TRACK": "True"})  # fmt: skip
        self.program = program
        self.context = workshop.project(workshop.OUT / "contexts" / "bento", model)
        shutil.copy(workshop.PEERS / "bento_service.py", self.context)
        text = (workshop.PEERS / "bentofile.yaml").read_text()
        (self.context / "bentofile.yaml").write_text(text.replace("@INDEX@", index))
        self.require("")

    def require(self, line: str) -> None:
        """Put a line at the end of the requirements."""
        (self.context / "requirements.txt").write_text(f"{workshop.BENTO_LIST.read_text()}{line}\n")

    def build(self, *options: str) -> Run:
        """Both commands."""
        words = ["build", "--output", "tag", self.context]
        built = self.daemon.run(*words, program=self.program, cwd=self.context)
        tag = built.out.strip().splitlines()[-1].removeprefix("__tag__:")
        more = [word for option in ("network=host", *options) for word in ("--opt", option.removeprefix("--"))]
        words = ["containerize", tag, "--image-tag", f"{self.image}:latest", *more]
        return built + self.daemon.run(*words, program=self.program, cwd=self.context)

    def start(self) -> tuple[Run, str]:
        """Run the image until it is ready."""
        return self.daemon.start(self.image, 3000, "/readyz")
