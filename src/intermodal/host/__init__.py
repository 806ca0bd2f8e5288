"""This machine, read once into a frozen value: folders, clock, cores, and the configuration of pip, uv, apt and netrc.

Takes the process environment; every room and the Python API are handed the `Host` and read nothing themselves, so a
test can be any machine it likes.

Rules: environment variables are read here only; files are read when first asked for and then remembered; a value
that may hold credentials (index addresses, netrc) is never put into an error, a lock or a log.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from intermodal.errors import HostError

if TYPE_CHECKING:
    from intermodal.host.apt import AptSource
    from intermodal.host.pip import IndexConfig

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

NOWHERE = Path("/nonexistent")  # the home of users without one, as Debian names it


class Host(Struct, frozen=True, dict=True):
    """What this machine is; build one with `read`, or by hand in tests."""

    environment: Mapping[str, str]
    home: Path
    system: str  # linux | darwin
    architecture: str  # amd64 | arm64
    cores: int
    uid: int
    now_s: float  # seconds since the epoch, at start

    @property
    def platform(self) -> str:
        """The platform of images that run here without emulation: "linux/amd64"."""
        return f"linux/{self.architecture}"

    def _xdg(self, variable: str, default: str) -> Path:
        value = self.environment.get(variable, "")
        if value.startswith("/"):
            return Path(value)
        if self.home == NOWHERE:
            raise HostError(
                f"cannot tell where files of this user belong: no HOME, and no {variable}",
                found=f"user {self.uid} has no home folder in /etc/passwd",
                next="set HOME, or XDG_DATA_HOME and XDG_CACHE_HOME, to folders that this user may write",
            )
        return self.home / default

    @cached_property
    def data_dir(self) -> Path:
        """Where the local store lives."""
        return self._xdg("XDG_DATA_HOME", ".local/share") / "intermodal"

    @cached_property
    def cache_dir(self) -> Path:
        """Where everything lives that can be fetched or made again."""
        return self._xdg("XDG_CACHE_HOME", ".cache") / "intermodal"

    @cached_property
    def temporary_dir(self) -> Path:
        """Where files of the cache are while they are made; `prune` sweeps it."""
        return self.cache_dir / "tmp"

    @cached_property
    def runtime_dir(self) -> Path:
        """A folder of this user for sockets; short, because a Unix socket's path holds 107 bytes at most."""
        value = self.environment.get("XDG_RUNTIME_DIR", "")
        if value.startswith("/") and os.access(value, os.W_OK):
            return Path(value) / "intermodal"
        return Path(self.environment.get("TMPDIR") or "/tmp") / f"intermodal-{self.uid}"  # noqa: S108 - made 0700

    @cached_property
    def indexes(self) -> IndexConfig:
        """Package indexes as pip's and uv's configuration say."""
        from intermodal.host.pip import read_index_config

        return read_index_config(self)

    @cached_property
    def apt_sources(self) -> tuple[AptSource, ...]:
        """Debian mirrors as apt's configuration says."""
        from intermodal.host.apt import read_apt_sources

        return read_apt_sources(self)


def _home(environment: Mapping[str, str]) -> Path:
    """HOME, else what the system knows of this user; `NOWHERE` for a user without either (`docker run -u 12345`)."""
    named = environment.get("HOME", "")
    if named.startswith("/"):
        return Path(named)
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir or NOWHERE)
    except KeyError:
        return NOWHERE


def read() -> Host:
    """The machine this process runs on."""
    machine = os.uname().machine.lower()
    return Host(
        environment=dict(os.environ),
        home=_home(os.environ),
        system="darwin" if sys.platform == "darwin" else "linux",
        architecture=ARCHITECTURES.get(machine, machine),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        uid=os.getuid(),
        now_s=time.time(),
    )
