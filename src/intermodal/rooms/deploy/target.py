"""What every target offers: the actions of `advance`, and what can be seen there.

Takes revisions and wishes, hands on what it sees. One object stands for one model on one target; several processes may
have one each, so a target keeps nothing that matters in memory.

Rules, in order:
1. Every call may be repeated, also after a crash in the middle of the one before: it looks at what is there and does
   what is missing. No call waits for a model: `start` and `stop` begin something, `seen` tells how far it is.
2. What is told was asked of the world just now: `traffic` is what the gateway confirms, `seen` counts containers that
   are there. What could not be asked is None or absent, never assumed.
3. A revision that has weight is not stopped, whoever asks: `stop` refuses.
4. The gateway and the containers live on without the process that started them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from typing import Any, Protocol

from msgspec import Struct

from intermodal.rooms.deploy.revision import Revision

RING_PAGE = 1000  # the most that a server tells at once


class Seen(Struct, frozen=True):
    """What is there of a revision."""

    containers: int = 0  # running or being restarted; 0: nothing is left of it
    healthy: int = 0  # replicas that the gateway takes for healthy
    problem: str = ""  # why it will not become ready by itself: "ended 3 times within 20 s: …"


class Traffic(Struct, frozen=True):
    """Who gets what."""

    weights: tuple[tuple[int, int], ...] = ()  # revision and percent, by revision; together 100, or nothing
    mirror: int | None = None  # the revision that gets copies

    def percent(self, revision: int) -> int:
        """The share of one revision."""
        return dict(self.weights).get(revision, 0)


class Counters(Struct, frozen=True):
    """What the gateway has counted of one revision's requests since it started; only ever more, until it restarts."""

    requests: int = 0  # answered or given up
    errors: int = 0  # of them 5xx, or broken
    retries: int = 0  # attempts that were repeated: errors that nobody saw
    latency: tuple[tuple[float, int], ...] = ()  # (upper edge in s, requests at or below it), cumulative
    healthy: int = 0  # endpoints now
    active: int = 0  # requests under way now


class Scrape(Struct, frozen=True):
    """One look at the gateway."""

    live: Mapping[int, Counters]  # by revision: users' inference
    mirror: Mapping[int, Counters]  # copies
    gateway: str = ""  # which gateway process counted: another one has begun at 0


class ReplicaReport(Struct, frozen=True):
    """What one replica's server says of itself on its metrics port."""

    replica: str  # names the process, so that a restarted one is another
    sketches: Mapping[str, Any]  # `/sketches`: requests, their durations and predictions, by traffic


class RingPage(Struct, frozen=True):
    """A replica's last predictions by request id, as its `/predictions` tells them."""

    place: str  # names the replica, whichever process it is now
    document: Mapping[str, Any]


def ring_path(after: Mapping[str, int], place: str) -> str:
    """Where a replica tells its predictions beyond what is known of that place."""
    return f"/predictions?after={after.get(place, 0)}&limit={RING_PAGE}"


class Target(Protocol):
    """One model on one target."""

    name: str  # "sandbox", "local", "ssh://HOST"
    model: str

    @property
    def platform(self) -> str:
        """What its machine runs: "linux/amd64".

        Raises:
            HostError: it cannot be asked.
        """
        ...

    def prepare(self, revision: Revision) -> None:
        """Do what may take long before a rollout begins: fetch the gateway, move or unpack the image, check ports.

        Raises:
            HostError: it cannot be done here; nothing has changed for users.
        """
        ...

    def tend(self) -> str:
        """Keep the gateway as it was told to be, also after it died; what is wrong with it, or ""."""
        ...

    def start(self, revision: Revision) -> None:
        """Begin to run a revision with all its replicas, without traffic but by header."""
        ...

    def stop(self, revision: int) -> None:
        """Begin to end a revision: no new requests, those under way are finished, then it goes.

        Raises:
            HostError: it has weight.
        """
        ...

    def seen(self, revisions: Sequence[int]) -> Mapping[int, Seen]:
        """What is there of these revisions."""
        ...

    def set_traffic(self, traffic: Traffic) -> None:
        """Divide the traffic; returns when the gateway has taken it.

        Raises:
            HostError: the gateway is gone, or refuses; `traffic` tells what holds.
        """
        ...

    def traffic(self) -> Traffic | None:
        """What the gateway confirms; None when it cannot be asked."""
        ...

    def scrape(self, revisions: Sequence[int]) -> Scrape | None:
        """What the gateway has counted; None when it cannot be asked."""
        ...

    def reports(self, revision: int) -> tuple[ReplicaReport, ...]:
        """What the replicas say of themselves; those that do not answer are left out."""
        ...

    def predictions(self, revision: int, after: Mapping[str, int]) -> tuple[RingPage, ...]:
        """What the replicas predicted last, beyond a number of each place (0 where none is given).

        Replicas that keep no ring, or do not answer, are left out.
        """
        ...

    def connect(self, timeout_s: float) -> HTTPConnection:
        """A connection to the gateway, as a user would have one; the caller closes it, and names host and path."""
        ...

    def logs(self, revision: int, *, lines: int = 100) -> str:
        """The end of what the replicas of a revision wrote."""
        ...

    def endpoint(self) -> str:
        """Where users find the model: "http://127.0.0.1:8080/"."""
        ...

    def down(self) -> None:
        """Take the model away: its route first, then its containers; the gateway goes with its last model."""
        ...
