"""What the servers of a revision predicted since the last look: their rings, page by page.

Takes a target, hands on `Predicted` with the outputs as V2 has them. What does not have the form is left out, because
a server must not end a rollout by what it says.

Rules, in order:
1. The first look at a replica only takes its place: what was predicted before nobody has asked for. `everything` asks
   from the beginning.
2. A process that began anew counts from 1, so its ring is read from there.
3. One look reads a bounded number of pages; what newer predictions pushed out meanwhile is lost, and told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from intermodal.rooms.deploy.target import RING_PAGE, RingPage, Target

_PAGES = 10
_FAR = 1 << 62


class Predicted(Struct, frozen=True):
    """One answered request."""

    request_id: str
    traffic: str  # "live", "mirror", …
    outputs: tuple[Mapping[str, Any], ...] | None  # None: too large to be kept
    inputs: tuple[Mapping[str, Any], ...] | None = None  # only where the ring keeps them


class Ring:
    """The rings of one revision's replicas.

    Args:
        target: where it runs.
        revision: its number.
        everything: begin with the oldest, not with what comes from now on.
    """

    def __init__(self, target: Target, revision: int, *, everything: bool = False) -> None:
        self._target, self._revision, self._everything = target, revision, everything
        self._known: dict[str, tuple[str, int]] = {}  # process and number, by place
        self.lost = 0

    def new(self) -> list[Predicted]:
        """What was predicted since the last look."""
        found: list[Predicted] = []
        if self._everything:
            pages = self._target.predictions(self._revision, {})
        else:
            pages = self._target.predictions(self._revision, {place: n for place, (_, n) in self._known.items()})
        for _ in range(_PAGES):
            again = {}
            for page in pages:
                took, more = self._take(page, found)
                if more:
                    again[page.place] = took
            if not again:
                break
            asked = dict.fromkeys(self._known, _FAR)  # of the others: nothing
            pages = self._target.predictions(self._revision, {**asked, **again})
            pages = tuple(page for page in pages if page.place in again)
        self._everything = False
        return found

    def _take(self, page: RingPage, found: list[Predicted]) -> tuple[int, bool]:
        """Add a page's predictions; up to where it goes, and whether there is more."""
        try:
            instance, first = str(page.document["instance"]), int(page.document["first"])
            last, following = int(page.document["last"]), int(page.document["next"])
            entries = list(page.document["predictions"])
        except (KeyError, TypeError, ValueError):
            return 0, False
        process, number = self._known.get(page.place, ("", 0))
        if process.partition("-")[0] != instance.partition("-")[0]:
            if not process and not self._everything:
                self._known[page.place] = (instance, last)
                return last, False
            if process and number:  # another process: its numbers began anew, and this page was asked with old ones
                self._known[page.place] = (instance, 0)
                return 0, last > 0
        self.lost += max(0, first - number - 1) if process else 0
        for entry in entries:
            made = _predicted(entry)
            if made is not None:
                found.append(made)
        reached = following if entries else max(number, min(following, last))
        self._known[page.place] = (instance, reached)
        return reached, bool(entries) and reached < last


def _predicted(entry: Any) -> Predicted | None:
    try:
        outputs, inputs = entry["outputs"], entry.get("inputs")
        return Predicted(
            str(entry["request_id"]),
            str(entry["traffic"]),
            None if outputs is None else tuple(dict(one) for one in outputs),
            None if inputs is None else tuple(dict(one) for one in inputs),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


__all__ = ["RING_PAGE", "Predicted", "Ring"]
