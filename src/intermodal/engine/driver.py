"""What an engine of containers must be able to do for `containers.py`: a dozen verbs, and the values they take.

Docker and podman implement `Driver`; both are handed the same `Spec`, which states every measure of a `Policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct, field

from intermodal.engine.archive import Loader, Parts
from intermodal.engine.bwrap import SCRATCH_BYTES
from intermodal.errors import EngineError
from intermodal_server.contract import USER_ID

CHECKED = "localhost/intermodal/"  # before the names of images that only checks need; each replaces its predecessor
PIDS = 1024
OPEN_FILES = 65536


class MissingError(EngineError):
    """The engine does not know an image or container, or no longer."""


class Policy(Struct, frozen=True):
    """The measures asked of an engine. The flags exist so that tests can remove one and see that it is missed."""

    user: str = f"{USER_ID}:{USER_ID}"
    read_only_root: bool = True
    drop_capabilities: bool = True
    no_new_privileges: bool = True
    seccomp: bool = True  # the engine's own filter, which none of ours may weaken
    isolate_network: bool = True
    scratch_bytes: int = SCRATCH_BYTES  # of /tmp and of /dev/shm
    pids: int = PIDS
    memory_bytes: int | None = None
    cpus: float | None = None


HARDENED = Policy()


class Spec(Struct, frozen=True):
    """One container as an engine is asked for it."""

    image: str  # by the engine's own id
    name: str
    policy: Policy
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    folder: Path  # of this container alone, on this host; gone when it ends
    binds: Mapping[str, Path]  # folder inside -> folder of this host, writable
    egress: bool
    publish: int | None  # port of 127.0.0.1; 0 is any free one; None publishes nothing
    publish_grpc: int | None = None  # the same for gRPC
    healthcheck: Mapping[str, object] = field(default_factory=dict)  # as in the image config


class State(Struct, frozen=True):
    """What an engine says of a container."""

    running: bool
    exit_code: int
    pid: int  # of its first process on this host; 0 when it has none, or none that can be seen from here
    port: int = 0  # published on 127.0.0.1
    grpc_port: int = 0
    error: str = ""


def published(ports: Mapping[str, Any], inside: int) -> int:
    """The port of this host before port `inside`, in the words of both engines; 0 when there is none."""
    bound = ports.get(f"{inside}/tcp") or [{}]
    return int(bound[0].get("HostPort") or 0)


class Driver(Loader, Protocol):
    """How to talk to one engine. Every method may raise EngineError, and MissingError for what is gone."""

    name: str

    @property
    def shares_sockets(self) -> bool:
        """Whether a Unix socket made inside can be connected to from here."""
        ...

    def find(self, parts: Parts) -> str | None:
        """The engine's id of the image, when it holds it."""
        ...

    def create(self, spec: Spec) -> str:
        """The id of a new container that does not run yet."""
        ...

    def start(self, container: str) -> None:
        """Run it."""
        ...

    def state(self, container: str) -> State:
        """How it is."""
        ...

    def logs(self, container: str, limit_bytes: int) -> str:
        """The last part of what it wrote."""
        ...

    def execute(self, container: str, argv: Sequence[str]) -> tuple[int, str]:
        """Exit status and standard output of a command inside, run as the container's own user."""
        ...

    def memory_bytes(self, container: str) -> int:
        """What it holds now, as the engine counts; asked only when its processes are not visible on this host."""
        ...

    def stop(self, container: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; no error when it has ended already."""
        ...

    def remove(self, container: str) -> None:
        """Delete it, dead or alive, with its volumes; no error when it is gone."""
        ...

    def owned(self) -> Mapping[str, str]:
        """Every container that carries `OWNER_LABEL`: id -> value."""
        ...
