"""What a walk through the corridor came to, as values; `cli` words them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from intermodal.oci.digest import Digest
from intermodal.oci.image import Image

if TYPE_CHECKING:
    from intermodal.rooms.check import CheckReport
    from intermodal.rooms.lock.rows import Lock
    from intermodal.rooms.push import PushReport


class LockOutcome(Struct, frozen=True):
    """A lock on disk, and what was done to it: "kept", "made" or "refreshed: …"."""

    lock: Lock
    path: Path
    state: str
    digest: Digest


class Step(Struct, frozen=True):
    """One room of a `ship`, as the table shows it."""

    room: str
    did: str
    seconds: float


class ShipReport(Struct, frozen=True):
    """What `ship` did, what came out, and what to try next."""

    steps: tuple[Step, ...]
    image: Image
    report: CheckReport
    next: str
    nothing_to_do: bool = False
    pushed: PushReport | None = None  # None when the project names no registry

    def as_json(self) -> dict[str, object]:
        """Steps, image and check report as one document."""
        return {
            "steps": [{"room": s.room, "did": s.did, "seconds": round(s.seconds, 3)} for s in self.steps],
            "image": self.image.as_json(),
            "check": self.report.as_json(),
            "push": self.pushed.as_json() if self.pushed is not None else None,
            "next": self.next,
            "nothing_to_do": self.nothing_to_do,
        }
