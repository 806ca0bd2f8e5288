"""Copied requests: did the canary answer them as stable did?

Takes what both revisions predicted (`rings`), joins it by request id, hands on `Compared`: counts and the worst
disagreements, as plain values that can be stored.

Rules, in order:
1. A pair is one request that stable answered to a user and the canary answered as its copy. An id that one side has
   twice is nobody's pair: clients choose ids.
2. Answers are compared as golden cases are: labels equal, numbers within the image's tolerances. One pair is one draw,
   however many rows it has.
3. An answer that is too large to be kept, or has not the form of one, is no pair, and counted.
4. What waits for its other half is bounded; what waits too long is dropped, and counted.
5. Examples say where two answers differ. Inputs are in them only where the ring keeps inputs.
6. The share of pairs that disagree is tested against the margin by an e-value, which may be looked at at any time.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from intermodal.rooms.deploy.verdict import Finding
from intermodal.rooms.watch.evidence import highest_rate, rate_e_value
from intermodal.rooms.watch.judge import DISAGREEMENTS, DISAGREEMENTS_SHARE, Rules
from intermodal.rooms.watch.rings import Predicted
from intermodal_server.golden import Difference, compare

WORST = 5
_WAITING = 20_000
_SHOWN = 200  # characters of a value or of inputs


class Disagreement(Struct, frozen=True):
    """One request that the two answered differently."""

    request_id: str
    output: str
    place: tuple[int, ...]
    stable: str
    canary: str
    distance: float  # how far apart: infinite for labels, shapes and missing outputs, else in units of stable's value
    inputs: str = ""

    def sentence(self) -> str:
        """In words."""
        where = f"{self.output}{list(self.place) if self.place else ''}"
        text = f"request {self.request_id}: {where} is {self.canary}, stable says {self.stable}"
        return text + (f", for {self.inputs}" if self.inputs else "")


class Compared(Struct, frozen=True):
    """What came of all pairs so far."""

    pairs: int = 0
    disagreed: int = 0
    not_comparable: int = 0  # too large to be kept, or without the form of an answer
    twice: int = 0  # ids that one side had more than once
    alone: int = 0  # whose other half never came
    worst: tuple[Disagreement, ...] = ()


class Copies:
    """Joins the two sides.

    Args:
        compared: what was counted before, by another watcher perhaps.
        rtol: of the image; None takes that of the datatype.
        atol: likewise.
    """

    def __init__(self, compared: Compared, *, rtol: float | None = None, atol: float | None = None) -> None:
        self.compared = compared
        self._rtol, self._atol = rtol, atol
        self._waiting: tuple[dict[str, Predicted | None], dict[str, Predicted | None]] = ({}, {})

    def add(self, stable: Iterable[Predicted], canary: Iterable[Predicted]) -> None:
        """Take what both predicted since the last time."""
        for side, kind, news in ((0, "live", stable), (1, "mirror", canary)):
            for one in news:
                if one.traffic == kind:
                    self._wait(side, one)
        mine, theirs = self._waiting
        for request_id in [name for name in mine if name in theirs]:
            self._pair(mine[request_id], theirs[request_id])
            mine[request_id] = theirs[request_id] = None  # stays for a while, so that a third is noticed
        for waiting in self._waiting:
            while len(waiting) > _WAITING:
                gone = waiting.pop(next(iter(waiting)))
                if gone is not None:
                    self._count(alone=1)

    def _wait(self, side: int, one: Predicted) -> None:
        waiting = self._waiting[side]
        if one.request_id in waiting:
            if waiting[one.request_id] is not None:
                self._count(twice=1)
            waiting[one.request_id] = None
        else:
            waiting[one.request_id] = one

    def _pair(self, stable: Predicted | None, canary: Predicted | None) -> None:
        if stable is None or canary is None:
            return
        if stable.outputs is None or canary.outputs is None:
            self._count(not_comparable=1)
            return
        try:
            found = compare(
                stable.request_id, _body(stable.outputs), _body(canary.outputs), rtol=self._rtol, atol=self._atol
            )
        except (TypeError, ValueError, KeyError, AttributeError):  # a server must not end a rollout by what it says
            self._count(not_comparable=1)
            return
        self._count(pairs=1, disagreed=int(bool(found)))
        if found:
            worst = max(found, key=_distance)
            self._keep(_disagreement(stable, worst))

    def _keep(self, one: Disagreement) -> None:
        ranked = sorted([*self.compared.worst, one], key=lambda known: -known.distance)
        self.compared = replace(self.compared, worst=tuple(ranked[:WORST]))

    def _count(self, **more: int) -> None:
        self.compared = replace(
            self.compared, **{name: getattr(self.compared, name) + count for name, count in more.items()}
        )


def disagreements(compared: Compared, rules: Rules) -> Finding:
    """The evidence that more pairs disagree than the margin allows."""
    events, pairs = compared.disagreed, compared.pairs
    return Finding(
        signal=DISAGREEMENTS,
        stable_events=0,
        stable_requests=0,
        canary_events=events,
        canary_requests=pairs,
        evidence=rate_e_value(events, pairs, rules.disagreement),
        needed=1 / (rules.alpha * DISAGREEMENTS_SHARE),
        margin=rules.disagreement,
        missed_rate=highest_rate(events, pairs),
    )


def _body(outputs: tuple[Any, ...]) -> dict[str, Any]:
    """As `compare` takes it; bytes that are no text are compared by their base64."""
    return {"outputs": [{**one, "data": one["data"] if "data" in one else [one.get("base64")]} for one in outputs]}


def _distance(difference: Difference) -> float:
    relative = difference.relative
    return inf if relative is None else relative


def _disagreement(stable: Predicted, worst: Difference) -> Disagreement:
    inputs = "; ".join(f"{one.get('name')} = {one.get('data', '…')}" for one in stable.inputs or ())
    return Disagreement(
        stable.request_id[:_SHOWN],
        worst.output,
        worst.place,
        _short(worst.expected),
        _short(worst.actual),
        _distance(worst) if _distance(worst) != inf else 1e308,  # JSON has no infinity
        inputs[:_SHOWN],
    )


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
