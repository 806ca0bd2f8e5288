"""What is deployed, as values: a revision, how it runs, and where the gateway offers it.

Takes an image's digest and the project's `[deploy]`, hands on values that are stored, compared and given to targets.
A revision never changes: other settings are another revision. Nothing here does I/O.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from intermodal.oci.digest import Digest


class RevisionState(Enum):
    """What became of a revision."""

    CANDIDATE = "candidate"  # of the rollout that runs
    STABLE = "stable"  # has the traffic, or gets it back
    RETIRED = "retired"  # was stable once; `rollback` finds it
    ROLLED_BACK = "rolled back"  # was sent back, never became stable
    DOWN = "down"  # taken away with its model


class Settings(Struct, frozen=True):
    """How a revision runs; part of what it is."""

    replicas: int = 1
    mode: str = ""  # how the server runs the model (inline, thread, workers), as `check` measured; "" leaves it open
    environment: tuple[tuple[str, str], ...] = ()  # of the server, sorted
    cpu: str = ""
    memory: str = ""
    gpu: int = 0
    secrets: tuple[tuple[str, str], ...] = ()  # name and reference, never a value


class Exposure(Struct, frozen=True):
    """Where a model is offered on the gateway; the same for all its revisions."""

    port: int = 8080
    address: str = "127.0.0.1"
    host: str = "*"  # name that requests ask for
    path: str = "/"  # prefix, taken away before the model sees the request
    certificate: str = ""  # PEM files; both or none
    key: str = ""
    sticky: str = ""  # header whose value keeps a user on one revision


class Revision(Struct, frozen=True):
    """One image with its settings, numbered within its model and target."""

    number: int
    listed: str  # digest as the store lists it: of the index where there are several platforms
    manifest: str  # digest of the manifest for the target's platform
    settings: Settings = Settings()
    state: RevisionState = RevisionState.CANDIDATE
    created: str = ""  # wall clock, for people: "2026-11-26T12:00:00Z"
    proven: bool = False  # was promoted once, so `rollback` may go to it

    @property
    def image(self) -> Digest:
        """The manifest's digest."""
        return Digest.parse(self.manifest)
