"""A Dockerfile's folder built by an engine of this machine: docker, podman or buildah.

Takes a folder and a base image of the store, hands on the built image, back in the store.

Rules, in order:
1. The base is loaded first, and no registry is asked for it.
2. The steps have no network: all that they need is in the folder.
3. Docker is spoken to through its API, whose builder knows no mounts; where the `docker` program brings BuildKit, that
   builds. Podman and buildah are run as programs.
4. The image comes back as an archive, so that every engine is read in one way and the config, health check included,
   stays as the engine made it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from intermodal.engine.api import DockerApi, find_socket
from intermodal.engine.archive import read_parts
from intermodal.engine.podman import PodmanDriver, hybrid_groups, layout_of
from intermodal.engine.podman_words import limits, refusal
from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.host.held import scratch
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.oci.docker_archive import Imported, import_archive
from intermodal.oci.layout import Store

Builder = Literal["docker", "podman", "buildah"]
BUILDERS: tuple[str, ...] = get_args(Builder)
_LINES = 12
_TIMEOUT_S = 3600.0
_OFFLINE = {"PIP_NO_INDEX": "1"}


def knows_mounts(builder: str, host: Host) -> bool:
    """Whether the builder understands `RUN --mount`; Docker's does when its program has BuildKit.

    Raises:
        EngineError: it is not there; better told before anything is fetched.
    """
    if builder != "docker":
        _program(builder, host)
        return True
    find_socket(host)
    program = shutil.which("docker", path=host.environment.get("PATH"))
    if program is None:
        return False
    words = [program, "buildx", "version"]
    return subprocess.run(words, env=dict(host.environment), capture_output=True, check=False).returncode == 0


def build_folder(
    folder: Path,
    name: str,
    base: Digest,
    base_name: str,
    *,
    builder: str,
    mounts: bool,
    store: Store,
    host: Host,
    events: Events,
) -> Imported:
    """The built image, which is in the store now and in the engine as `name`.

    Args:
        folder: holds the Dockerfile, with every wheel.
        name: "digits:1.0.0".
        base: manifest of the base image, in the store.
        base_name: as the Dockerfile calls it.
        builder: docker | podman | buildah.
        mounts: whether the Dockerfile uses them.
        store: where the base lies and the image goes.
        host: this machine.
        events: told what the engine says.

    Raises:
        EngineError: the engine is missing, or a step failed; its last lines are in `found`.
    """
    with scratch(host.temporary_dir) as temporary:
        archive = temporary / "image.tar"
        if builder == "docker":
            _docker(folder, name, base, base_name, archive, mounts, store, host, events)
        else:
            _podman(builder, folder, name, base, base_name, archive, store, host, events)
        with events.task("take the image into the store"):
            return import_archive(archive, store)


# --- docker --------------------------------------------------------------------------------------------------------
def _docker(
    folder: Path,
    name: str,
    base: Digest,
    base_name: str,
    archive: Path,
    mounts: bool,
    store: Store,
    host: Host,
    events: Events,
) -> None:
    from intermodal.engine.docker import DockerDriver

    DockerDriver(store, host).load(read_parts(store, base), base_name, events)
    api = DockerApi(find_socket(host))
    with events.task("docker build"):
        if mounts:
            words = ["docker", "build", "--network", "none", "--tag", name, *_arguments(), str(folder)]
            _run(words, host, events, {"DOCKER_BUILDKIT": "1", "DOCKER_HOST": f"unix://{api.path}"})
        else:
            _classic(api, folder, name, events)
    stream = api.stream("GET", f"/images/{name}/get", timeout_s=_TIMEOUT_S)
    with events.task("docker save"), stream as answer, archive.open("wb") as out:
        shutil.copyfileobj(answer, out, CHUNK_BYTES)


def _classic(api: DockerApi, folder: Path, name: str, events: Events) -> None:
    """Docker's own builder, through its API."""
    query = {"t": name, "networkmode": "none", "buildargs": json.dumps(_OFFLINE), "rm": "1", "forcerm": "1"}
    said: list[str] = []
    for line in api.streamed_json("POST", "/build", packed_folder(folder), query):
        if "error" in line:
            raise EngineError("docker build failed", found=[*said[-_LINES:], str(line["error"]).strip()])
        if text := str(line.get("stream", "")).rstrip():
            said += text.splitlines()
            events.output(text)


def packed_folder(folder: Path) -> Iterator[bytes]:
    """A folder as a tar, piece by piece; owner 0 and no times, so that the builder's cache finds it again."""
    for path in sorted(folder.rglob("*")):
        entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
        entry.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
        if path.is_dir():
            entry.type = tarfile.DIRTYPE
            yield entry.tobuf(tarfile.PAX_FORMAT)
            continue
        entry.size = path.stat().st_size
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as stream:
            while piece := stream.read(CHUNK_BYTES):
                yield piece
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


# --- podman and buildah --------------------------------------------------------------------------------------------
def _podman(
    builder: str,
    folder: Path,
    name: str,
    base: Digest,
    base_name: str,
    archive: Path,
    store: Store,
    host: Host,
    events: Events,
) -> None:
    if builder == "podman":
        PodmanDriver(store, host).load(read_parts(store, base), base_name, events)
    else:
        parts = read_parts(store, base)
        with layout_of(parts, store, host) as layout:
            reference = f"oci:{layout}:localhost/{layout.name}:latest"
            _run([builder, "pull", "--quiet", reference], host, events, {})
        _run([builder, "tag", parts.config.digest.hex, base_name], host, events, {})
    runtime = ["--runtime", "runc"] if hybrid_groups() and shutil.which("runc") else []
    own = [*runtime, "build"] if builder == "podman" else ["build", *runtime]
    words = [builder, *own, "--format", "docker", "--pull=never", "--network", "none", *limits(), *_arguments()]
    with events.task(f"{builder} build"):
        _run([*words, "--tag", name, str(folder)], host, events, {})
    save = ["save", "--quiet", "--format", "docker-archive", "--output", str(archive), name]
    push = ["push", "--quiet", name, f"docker-archive:{archive}:{name}"]
    with events.task(f"{builder} save"):
        _run([builder, *(save if builder == "podman" else push)], host, events, {})


def _arguments() -> list[str]:
    return [word for name, value in _OFFLINE.items() for word in ("--build-arg", f"{name}={value}")]


def _run(words: Sequence[str], host: Host, events: Events, more: dict[str, str]) -> None:
    """Run a builder's program, passing on what it says.

    Raises:
        EngineError: it is missing or failed.
    """
    said: list[str] = []
    with subprocess.Popen(
        [_program(words[0], host), *words[1:]],
        env={**host.environment, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1", **more},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or io.StringIO():
                said = [*said[-_LINES:], line.rstrip()]
                events.output(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise EngineError(
            f"{words[0]} {next(word for word in words[1:] if word in ('build', 'save', 'push'))} failed",
            found=said,
            next=refusal("\n".join(said)).next if words[0] != "docker" else (),
        )


def _program(name: str, host: Host) -> str:
    program = shutil.which(name, path=host.environment.get("PATH"))
    if program is None:
        raise EngineError(
            f"{name} is not installed",
            found=f"no {name} in PATH",
            next=(f"sudo apt install {name}", "or: intermodal build PATH, which needs no engine"),
        )
    return program
