"""Podman's service, which speaks Docker's API, with storage, networks and settings of its own; root only.

Rules, in order:
1. It has its own `/run/netns`: what podman forgets when it is killed, the kernel takes back with the last process. It
   has its own `/run/containers`, too: the table of addresses there is shared by all podmans of a machine, whatever
   their settings say, and nobody ever got those that a killed one had taken.
2. One with networks at a time on a machine: podman names bridges and chooses subnets by looking at those that are
   there, and makes them later, so two of them would share one.
3. What a test leaves that was killed itself is ended by the next: nobody holds its folder any more.
4. Nothing of it stays: `left` names links and namespaces that were not there before. Bridges have no process that holds
   them, so those that a killed podman forgot are deleted here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.engines import APT, PODMAN_HELPERS, Running, _await, _drop_link, _folder, _service, need, omit

PATIENCE_S = 60.0
_OWNER = "podman.owner"  # locked by whoever the folder belongs to
_LOCK = Path("/run/intermodal-tests-podman.lock")
_OURS = re.compile(r"(podman|veth)\d{1,5}")  # as netavark and the kernel number them; Docker's have hexadecimal names
_held: list[int] = []
_PRIVATE = ("/run/netns", "/run/containers", "/run/runc")
_ALONE = f'for d in {" ".join(_PRIVATE)}; do mkdir -p $d && mount -t tmpfs tmpfs $d || exit; done; exec "$@"'


@dataclass(frozen=True)
class PodmanService(Running):
    """One that runs for the length of a `with` block."""

    before: frozenset[str] = frozenset()  # links
    space: int = -1  # its mount namespace, an open file

    def left(self) -> list[str]:
        """Links and network namespaces that were not there before, sorted."""
        found = self.inside("ls", "/run/netns", check=True).split()
        return sorted([*(f"namespace {name}" for name in found), *(f"link {name}" for name in links() - self.before)])

    def inside(self, *words: str, variables: Mapping[str, str] | None = None, check: bool = False) -> str:
        """What a command says where podman's mounts are."""
        enter = ["nsenter", f"--mount=/proc/self/fd/{self.space}", *words]
        given = {"env": variables, "pass_fds": [self.space]}
        return subprocess.run(enter, stdout=subprocess.PIPE, text=True, check=check, **given).stdout


def links(*words: str) -> frozenset[str]:
    """The names of links that podman could have made; `words` choose among them."""
    said = subprocess.run(["ip", "-j", "link", "show", *words], capture_output=True, check=True).stdout
    return frozenset(one["ifname"] for one in json.loads(said or "[]") if _OURS.fullmatch(one.get("ifname", "")))


@contextmanager
def podman_service(backend: str = "netavark") -> Iterator[PodmanService]:
    """Podman's service with everything of its own; an AssertionError when links or namespaces stay."""
    if os.getuid() != 0:
        omit("only root can start podman's service with networks of its own")
    program = need("podman")
    with ExitStack() as stack:
        stack.enter_context(_alone())
        folder = stack.enter_context(_folder())
        owner = stack.enter_context((folder / _OWNER).open("w"))
        fcntl.flock(owner, fcntl.LOCK_EX)
        _configure(folder, backend)
        environment = _environment(folder)
        path, before = folder / "podman.sock", links()
        words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _ALONE, "sh", program]
        words += ["system", "service", "--time", "0", f"unix://{path}"]
        stack.callback(_end, folder, before)
        process = stack.enter_context(_service(words, folder, environment))
        _await(process, path, folder / "log")
        space = os.open(f"/proc/{process.pid}/ns/mnt", os.O_RDONLY)
        running = PodmanService(folder, {"DOCKER_HOST": f"unix://{path}"}, None, before, space)
        try:
            yield running
        finally:
            try:
                for last in (["rm", "--all", "--force", "--time", "0"], ["volume", "prune", "--force"]):
                    running.inside(program, *last, variables=environment)
            finally:
                os.close(space)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes out; several in one process know each other's links."""
    if _held:
        yield
        return
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _held.append(lock.fileno())
        try:
            _sweep()
            yield
        finally:
            _held.pop()


def _sweep() -> None:
    """End what services still run whose test was killed."""
    for mark in Path(tempfile.gettempdir()).glob(f"im-*/{_OWNER}"):
        with suppress(BlockingIOError), mark.open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _end_orphan(mark.parent)


def _end_orphan(folder: Path) -> None:
    """End what belongs to a folder, and remove it."""
    networks = [json.loads(file.read_text()) for file in folder.glob("networks/*.json")]
    for process in _processes(folder)[:1]:
        words = [need("podman"), "rm", "--all", "--force", "--time", "0"]
        enter = ["nsenter", f"--mount=/proc/{process}/ns/mnt", *words]
        subprocess.run(enter, env=_environment(folder), capture_output=True, check=False)
    _end_monitors(folder)
    for bridge in {one.get("network_interface") for one in networks} & links():
        _until(lambda name=bridge: not links("master", name), f"{bridge} to be empty")
        _drop_link(bridge)
    shutil.rmtree(folder, ignore_errors=True)


def _until(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.1)


def _environment(folder: Path) -> dict[str, str]:
    """The variables with which podman finds its settings."""
    settings = {"CONTAINERS_CONF": f"{folder}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf"}
    return {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": str(folder), **settings}


def _configure(folder: Path, backend: str) -> None:
    """Write podman's settings."""
    helpers = [place for place in PODMAN_HELPERS if Path(place, "netavark").exists()]
    if backend == "netavark" and not helpers:
        helpers = [str(_unpacked(folder / "packages", "netavark", "aardvark-dns") / "usr/lib/podman")]
    (folder / "networks").mkdir()
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    runtime = 'runtime = "runc"\n' if shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin") else ""
    (folder / "containers.conf").write_text(
        f"[engine]\n{runtime}helper_binaries_dir = {json.dumps([*helpers, *PODMAN_HELPERS])}\n"
        f'tmp_dir = "{folder}/tmp"\nlock_type = "file"\n'
        f'[network]\nnetwork_backend = "{backend}"\nnetwork_config_dir = "{folder}/networks"\n'
    )


def _unpacked(folder: Path, *packages: str) -> Path:
    """Debian packages in a folder of their own: installed they would change what podman does for everybody here."""
    folder.mkdir()
    words = [*APT, "download", *packages]
    if subprocess.run(words, cwd=folder, capture_output=True, check=False).returncode:
        subprocess.run([*APT, "update"], capture_output=True, check=False)
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            omit(f"{', '.join(packages)} cannot be had: {done.stderr.strip().splitlines()[-1:]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    return folder


def _end(folder: Path, before: frozenset[str]) -> None:
    """See that nothing stays once the service has ended."""
    _end_monitors(folder)
    _until(lambda: all(name.startswith("podman") for name in links() - before), "links to go with their namespaces")
    for bridge in links() - before:
        if not links("master", bridge):
            _drop_link(bridge)


def _end_monitors(folder: Path) -> None:
    """End podman's watchers of commands in containers, which stay for five minutes after their container."""
    for process in _processes(folder):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)


def _processes(folder: Path) -> list[int]:
    """Those that name a folder: podman's service, its watchers, its name server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found
