"""Real engines for tests: installed when missing, started apart from those of the machine, and gone afterwards.

As root everything is made here: Debian's packages, a Docker daemon and a containerd with folders of their own, storage
of its own for podman, and a user for rootless podman. As an ordinary user only what the machine offers is used. What
cannot be had is a failure in CI (`CI=true`) and a listed omission elsewhere.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGES = {
    "dockerd": ["docker.io"],
    "podman": ["podman", "runc", "uidmap", "slirp4netns"],
    "ssh": ["openssh-client"],
    "sshd": ["openssh-server"],
    "ctr": ["containerd", "runc"],
    "skopeo": ["skopeo"],
    "docker-registry": ["docker-registry"],
    "htpasswd": ["apache2-utils"],
    "openssl": ["openssl"],
    "promtool": ["prometheus"],
    "prometheus": ["prometheus"],
    "docker-compose": ["docker-compose"],
    "docker": ["docker.io"],
}
APT = ("apt-get", "-o", "DPkg::Lock::Timeout=300")  # another test, or the machine itself, may be installing
PODMAN_HELPERS = ("/usr/libexec/podman", "/usr/lib/podman")
GROUP = 54400  # may use our Docker daemon
START_S = 60.0


@dataclass(frozen=True)
class Running:
    """An engine that runs for the length of a `with` block."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)  # what a client needs in its environment
    restart: Callable[[], None] | None = None  # ends the daemon as a reboot would, and starts it again


def omit(why: str) -> None:
    """Leave a test out, with its reason; a failure where nothing may be left out."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI leaves nothing out, but {why}")
    pytest.skip(why)


def need(program: str) -> str:
    """The path of a program, installed now when we may."""
    if found := shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        return found
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        omit(f"{program} is not installed, and only root can install it here")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [*APT, "install", "-y", "--no-install-recommends", *PACKAGES[program]]
    # a package starts its service; policy-rc.d keeps engines of the machine from appearing
    with _no_services():
        if subprocess.run(install, env=environment, capture_output=True, check=False).returncode:
            subprocess.run([*APT, "update"], env=environment, capture_output=True, check=False)
            done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                omit(f"{program} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or program


@contextmanager
def _no_services() -> Iterator[None]:
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


@contextmanager
def _folder() -> Iterator[Path]:
    """Short, because sockets lie in it, and open to others, because they connect to them."""
    folder = Path(tempfile.mkdtemp(prefix="im-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _unmount(folder: Path) -> None:
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in sorted((p for p in places if p.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", place], capture_output=True, check=False)


@contextmanager
def _service(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in a session of its own, ended by its process id."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            return
        time.sleep(0.05)
    omit(f"{process.args[0]} does not start here: {log.read_text(errors='replace')[-300:]}")  # type: ignore[index]


@contextmanager
def _addresses() -> Iterator[str]:
    """A range for a daemon's networks that no other daemon of tests on this machine has.

    Docker takes the first range without a route; two daemons that make a network at once took the same one, and the
    gateway of one asked the replicas of the other.
    """
    with ExitStack() as stack:
        for number in range(100, 200):
            lock = stack.enter_context(Path(f"/run/intermodal-tests-10.{number}.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield f"10.{number}.0.0/16"
            return
    omit("a hundred Docker daemons of tests are running")


@contextmanager
def docker() -> Iterator[Running]:
    """A Docker daemon with everything of its own; the firewall of this machine is left alone."""
    if os.getuid() != 0:
        omit("only root can start a Docker daemon")
    program = need("dockerd")
    bridge_before = Path("/sys/class/net/docker0").exists()
    with _addresses() as addresses, _folder() as folder:
        path = folder / "docker.sock"
        words = [program, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-H", f"unix://{path}"]
        words += ["--pidfile", f"{folder}/pid", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        words += ["--group", str(GROUP), "--config-file", f"{folder}/daemon.json", *_cgroup(folder.name)]
        pools = [{"base": addresses, "size": 24}]
        (folder / "daemon.json").write_text(json.dumps({"default-address-pools": pools}))
        environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": str(folder)}
        services = ExitStack()

        def begin() -> None:
            process = services.enter_context(_service(words, folder, environment))
            _await(process, path, folder / "log")

        def restart() -> None:
            services.close()
            begin()

        try:
            begin()
            yield Running(folder, {"DOCKER_HOST": f"unix://{path}"}, restart)
        finally:
            services.close()
            for made in Path("/sys/fs/cgroup").glob(f"*/{folder.name}"):
                with suppress(OSError):
                    made.rmdir()
            if not bridge_before:
                _drop_link("docker0")


def _cgroup(name: str) -> list[str]:
    """The daemon's option for a group of its own, where all its containers together do not count as one process."""
    group = Path("/sys/fs/cgroup/cpu") / name  # only there where groups are of the first version
    try:
        group.mkdir()
        (group / "cpu.shares").write_text("16384")
    except OSError:
        return []
    return ["--cgroup-parent", f"/{name}"]


@contextmanager
def containerd() -> Iterator[Running]:
    """A containerd with everything of its own."""
    if os.getuid() != 0:
        omit("only root can start containerd")
    need("ctr")
    program = shutil.which("containerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "containerd"
    with _folder() as folder:
        path = folder / "containerd.sock"
        (folder / "config.toml").write_text(
            f'version = 2\n[plugins."io.containerd.internal.v1.opt"]\n  path = "{folder}/opt"\n'
        )
        words = [program, "--config", f"{folder}/config.toml"]
        words += ["--root", f"{folder}/root", "--state", f"{folder}/state", "--address", str(path)]
        with _service(words, folder, {"PATH": os.environ["PATH"]}) as process:
            _await(process, path, folder / "log")
            yield Running(folder, {"CONTAINERD_ADDRESS": str(path)})


@contextmanager
def podman() -> Iterator[Running]:
    """Podman of this user with storage of its own."""
    program = need("podman")
    bridge_before = Path("/sys/class/net/cni-podman0").exists()
    with _folder() as folder:
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        )
        variables = {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}
        try:
            yield Running(folder, variables)
        finally:
            environment = {**os.environ, **variables}
            for words in (["rm", "--all", "--force", "--time", "0"], ["rmi", "--all", "--force"]):
                subprocess.run([program, *words], env=environment, capture_output=True, check=False)
            if not bridge_before:
                _drop_link("cni-podman0")


@dataclass(frozen=True)
class Person:
    """An ordinary user of this machine."""

    name: str
    uid: int
    home: Path
    variables: Mapping[str, str]


@contextmanager
def person(name: str = "im-rootless") -> Iterator[Person]:
    """A user with a home and subordinate ids, as rootless podman needs; removed afterwards."""
    if os.getuid() != 0:
        omit("only root can add a user")
    with _folder() as folder:
        home, runtime = folder / "home", folder / "run"
        added = subprocess.run(
            ["useradd", "--create-home", "--home-dir", str(home), "--shell", "/bin/sh", name], capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if added.returncode:
            omit(f"a user cannot be added here: {added.stderr.strip()}")
        uid = pwd.getpwnam(name).pw_uid
        try:
            runtime.mkdir(mode=0o700)
            os.chown(runtime, uid, uid)
            path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
            variables = {"PATH": path, "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
            yield Person(name, uid, home, variables)
        finally:
            end_processes(uid)
            subprocess.run(["userdel", "--force", name], capture_output=True, check=False)


def end_processes(uid: int) -> None:
    """End what a user left running: rootless podman keeps one process that holds the user namespace."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if entry.stat().st_uid == uid:
                os.kill(int(entry.name), signal.SIGKILL)


def everybodys_python(uid: int) -> str:
    """An interpreter of our version that another user may start; ours may lie where only we may enter."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (os.path.realpath(sys.executable), f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        # through `env`, because setpriv itself still finds what only root may enter
        words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", path, "-c", ""]
        with suppress(OSError):
            if subprocess.run(words, cwd="/", capture_output=True, check=False).returncode == 0:
                return path
    omit(f"there is no Python {version} that every user may start")
    raise AssertionError


def _drop_link(name: str) -> None:
    subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


def ask(path: Path | None, port: int = 0, *, within_s: float = 30.0) -> str:
    """What a server answers to GET /, over its socket or its port; waits until it is there."""
    until = time.monotonic() + within_s
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            if path is not None:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(str(path))
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        finally:
            connection.close()
