"""What every engine offers: a container of a stored image, hardened the same way everywhere, and the proof of it.

Takes a `RunRequest` from `rooms.check`, `run` or (later) a deploy target; hands back a running `Container`.

Rules, in order:
1. All engines are asked for the same: user 65532, no capabilities, no new privileges, a seccomp filter, a read-only
   root, writable /tmp and /dev/shm only, and, with `egress=False`, no network at all.
2. What an engine could not give is reported as absent in `Hardening`, never left out.
3. Whatever was started is gone when `Container.stop` returns, also after Ctrl-C; nothing is left on disk but caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct, field

from intermodal.events import SILENT, Events
from intermodal.oci.digest import Digest

Isolation = Literal["full", "partial", "none"]


class Endpoint(Struct, frozen=True):
    """Where the server answers: a Unix socket, or a TCP port on loopback; and the socket of its metrics."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    metrics: Path | None = None  # None where only the container's own network reaches them
    grpc_port: int = 0  # 0 where gRPC was not asked for


class RunRequest(Struct, frozen=True):
    """One container to start.

    With `egress=False` the container has no network and answers on a Unix socket; with `port` set it answers on
    127.0.0.1:`port` of this host.
    """

    image: Digest  # of the manifest, in the store
    environment: Mapping[str, str] = field(default_factory=dict)
    egress: bool = False
    port: int | None = None
    grpc_port: int | None = None  # the same for gRPC, of an image that serves it
    events: Events = SILENT


class Hardening(Struct, frozen=True):
    """Which measures a container really has; measured from inside where that can be done, not taken on trust."""

    isolation: Isolation
    measures: Mapping[str, bool]  # user, capabilities, no_new_privs, seccomp, read_only_root, no_egress, no_userns
    notes: tuple[str, ...] = ()  # why something is absent, for people


class Container(Protocol):
    """A running container; `stop` must be called, best by `contextlib.closing`-like use of `with`."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the server answers once it is up."""
        ...

    @property
    def hardening(self) -> Hardening:
        """What the container has."""
        ...

    def logs(self) -> str:
        """What it wrote so far, standard output and error together, at most the last 256 KiB."""
        ...

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        ...

    def peak_rss_bytes(self) -> int:
        """The highest resident memory of all its processes together seen so far."""
        ...

    def stop(self, grace_s: float = 10.0) -> int:
        """End it with SIGTERM, after `grace_s` with SIGKILL; its exit status. Safe to call twice."""
        ...

    def __enter__(self) -> Container: ...

    def __exit__(self, *exc: object) -> None: ...


class Engine(Protocol):
    """One way of running containers on this machine."""

    name: str

    def start(self, request: RunRequest) -> Container:
        """A container of `request.image`; it may not be ready yet.

        Raises:
            EngineError: the engine is missing or refused; `.next` says what to install or allow.
            PortTakenError: somebody listens on `request.port` or `request.grpc_port`.
            InputError: gRPC is asked for, and the image does not serve it.
        """
        ...
