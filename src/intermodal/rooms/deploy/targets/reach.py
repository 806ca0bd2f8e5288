"""How a target's machine is reached: this one directly, another one through `ssh` as its owner has set it up.

Takes where to go, hands on connected sockets: to the engine's daemon, and to TCP ports as that machine sees them.

Rules, in order:
1. `ssh` is the user's own program with the user's configuration, keys and known hosts; it never asks anything here.
2. One connection serves all (`ControlMaster`), and ends by itself a minute after its last use.
3. Over there Docker is asked where its program is, else podman.
4. What ssh says when it fails is what the user is told.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

from intermodal.engine.forward import LOOPBACK
from intermodal.errors import EngineError
from intermodal.host import Host
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.targets.tls import spoken

_PERSIST_S = 60
_CONNECT_S = 10
# One word each for ssh, which the login shell over there takes apart again.
_DIAL = "sh -c 'command -v docker >/dev/null && exec docker system dial-stdio; exec podman system dial-stdio'"
_CHECK = "sh -c 'command -v docker >/dev/null && exec docker version; exec podman --remote version'"


class Reach(Protocol):
    """The way to one machine."""

    name: str  # "" for this machine, else as the user wrote it

    def daemon(self, timeout_s: float | None) -> socket.socket:
        """A connection to the engine's daemon."""
        ...

    def tcp(self, address: str, port: int, timeout_s: float | None) -> socket.socket:
        """A connection to a port, as that machine itself would make it."""
        ...


class Here:
    """This machine."""

    name = ""

    def __init__(self, path: Path) -> None:
        self.path = path

    def daemon(self, timeout_s: float | None) -> socket.socket:
        """The daemon's Unix socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(str(self.path))
        except BaseException:
            connection.close()
            raise
        return connection

    def tcp(self, address: str, port: int, timeout_s: float | None) -> socket.socket:
        """A plain connection."""
        return socket.create_connection((address, port), timeout_s)


class Ssh:
    """Another machine.

    Args:
        place: "HOST", "USER@HOST", with ":PORT" where it is not 22.
        host: where ssh's connection is kept.

    Raises:
        EngineError: there is no ssh program, or the name is none.
    """

    def __init__(self, place: str, host: Host) -> None:
        self.name = f"ssh://{place}"
        name, _, port = place.rpartition(":") if place.rpartition(":")[2].isdigit() else (place, "", "")
        if not name or name.startswith("-") or any(character.isspace() for character in name):
            raise EngineError(f"{self.name} names no machine", next="--to ssh://USER@HOST")
        program = shutil.which("ssh", path=host.environment.get("PATH"))
        if program is None:
            raise EngineError(f"cannot reach {self.name}", found="there is no ssh program here", next="install OpenSSH")
        folder = _private(host.runtime_dir.with_name(f"{host.runtime_dir.name}-ssh"))
        self._environment = dict(host.environment)
        self._command = [
            *(program, "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}"),
            *("-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o", f"ControlPersist={_PERSIST_S}"),
            *(("-p", port) if port else ()),
        ]
        self._place = name

    def daemon(self, timeout_s: float | None) -> socket.socket:
        """What `docker system dial-stdio` over there connects to, or podman's."""
        return self._through(["--", self._place, _DIAL], timeout_s)

    def tcp(self, address: str, port: int, timeout_s: float | None) -> socket.socket:
        """A connection that ssh forwards."""
        place = f"[{address}]" if ":" in address else address
        return self._through(["-W", f"{place}:{port}", "--", self._place], timeout_s)

    def _through(self, words: list[str], timeout_s: float | None) -> socket.socket:
        """A socket whose other end is ssh's input and output."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                subprocess.Popen(
                    [*self._command, *words],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    env=self._environment,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(timeout_s)
        return ours

    def check(self) -> None:
        """Return when the machine lets us in and has Docker or podman.

        Raises:
            EngineError: with what ssh said.
        """
        words = [*self._command, "--", self._place, _CHECK]
        try:
            done = subprocess.run(
                words, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"cannot reach {self.name}", found="no answer within 60 s") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-3:]
            raise EngineError(
                f"cannot use Docker or podman on {self.name}",
                found=said or [f"ssh ended with status {done.returncode}"],
                next=f"make this work first: ssh {self._place} docker version (or: podman --remote version)",
            )


class Through(HTTPConnection):
    """A connection to the gateway, made the way its machine is reached."""

    def __init__(self, reach: Reach, exposure: Exposure, timeout_s: float) -> None:
        super().__init__(reachable(exposure.address), exposure.port, timeout=timeout_s)
        self._reach, self._exposure = reach, exposure

    def connect(self) -> None:
        """Open it, and speak TLS where the gateway does."""
        self.sock = spoken(self._reach.tcp(self.host, self.port, self.timeout), self._exposure)


def _private(folder: Path) -> Path:
    """A folder that is ours alone, made when missing; not among containers' folders, which are swept."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise EngineError(f"the folder for ssh's sockets {folder} is not ours alone", next="remove it")
    return folder


def reachable(address: str) -> str:
    """Where to connect to what listens on `address`, from the same machine."""
    return LOOPBACK if address in ("0.0.0.0", "") else address  # noqa: S104
