"""After promotion: are predictions still what they were while the revision was young?

Takes what servers counted (`/sketches`), hands on a `Drift`: what is compared, and how far predictions have moved.
Pure; nothing here acts on anything.

Rules, in order:
1. What is compared with is chosen once, from the revision's own traffic until its promotion (canary and bake), or from
   its first `ENOUGH_REQUESTS` where that was too little: classes as they are, numbers in tenths.
2. Looks add up what came since, until there are `ENOUGH` predictions; then they are compared, and counting begins anew.
   So each comparison is about its own stretch of time, and old traffic does not hide new drift.
3. The measure is the population stability index, the sum of `(now - then) * ln(now / then)` over the shares. A warning
   needs both: an index that matters (`WARN_AT`), and one beyond what chance gives such counts.
4. A process that began anew counts from 0; one that ended takes what it had not told with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log, sqrt

from msgspec import Struct
from msgspec.structs import replace

from intermodal.rooms.deploy.target import ReplicaReport
from intermodal.rooms.watch.choice import Choice, choose, counted
from intermodal.rooms.watch.looks import Look, looks
from intermodal.rooms.watch.pace import ENOUGH_REQUESTS

ENOUGH = 500
WARN_AT = 0.2
_CHANCE = 3.0  # standard deviations of an index that is chance alone


class Baseline(Struct, frozen=True):
    """One output: what it is compared with, and what came since."""

    choice: Choice
    then: tuple[int, ...]
    recent: tuple[int, ...]


class Shift(Struct, frozen=True):
    """How far one output has moved."""

    output: str
    index: float
    chance: float  # an index up to here is chance
    predictions: int
    class_name: str  # that moved most
    share_then: float
    share_now: float

    @property
    def warns(self) -> bool:
        """Whether a person should look."""
        return self.index >= WARN_AT and self.index > self.chance

    def sentence(self) -> str:
        """In words."""
        return (
            f"{self.output}: {self.class_name!r} is {100 * self.share_now:.3g} % of {self.predictions} predictions, "
            f"{100 * self.share_then:.3g} % at promotion; stability index {self.index:.2g}, "
            f"chance gives {self.chance:.2g}"
        )


class Drift(Struct, frozen=True):
    """What is known of a revision's drift; all that is stored."""

    outputs: tuple[Baseline, ...] = ()
    known: Mapping[str, tuple[tuple[int, ...], ...]] = {}  # by replica process: counts of each output at the last look
    shifts: tuple[Shift, ...] = ()  # of the newest comparison

    @property
    def warns(self) -> bool:
        """Whether any output has moved."""
        return any(one.warns for one in self.shifts)

    @property
    def waiting(self) -> int:
        """How many predictions the next comparison has so far."""
        return max((sum(one.recent) for one in self.outputs), default=0)


def begin(reports: Iterable[ReplicaReport]) -> Drift:
    """What later traffic will be compared with; nothing yet where there is too little."""
    live = looks(reports, "live")
    outputs = []
    for name in dict.fromkeys(name for look in live.values() for name in look.predictions):
        alone = [_only(look, name) for look in live.values()]
        choice = choose(Choice(), alone)
        if choice.output:
            then = _sum(counted(choice, look.predictions.get(name)) for look in alone)
            outputs.append(Baseline(choice, then, (0,) * len(then)))
    found = Drift(tuple(outputs))
    return replace(found, known={replica: _counts(found, look) for replica, look in live.items()})


def look(drift: Drift, reports: Iterable[ReplicaReport]) -> Drift:
    """The drift with what came since the last look, compared where that is enough."""
    reports = tuple(reports)
    if not drift.outputs:
        return begin(reports)
    live = looks(reports, "live")
    now = {replica: _counts(drift, one) for replica, one in live.items()}
    outputs, shifts = [], []
    for index, one in enumerate(drift.outputs):
        recent = one.recent
        for replica, counts in now.items():
            before = drift.known[replica][index] if replica in drift.known else (0,) * len(recent)
            new = tuple(max(0, b - a) for a, b in zip(before, counts[index], strict=True))
            recent = _sum((recent, new))
        if sum(recent) >= ENOUGH:
            shifts.append(shift(one, recent))
            recent = (0,) * len(recent)
        outputs.append(replace(one, recent=recent))
    compared = {one.output for one in shifts}
    kept = tuple(one for one in drift.shifts if one.output not in compared)
    return Drift(tuple(outputs), now, (*kept, *shifts))


def shift(one: Baseline, now: tuple[int, ...]) -> Shift:
    """How far an output's predictions are from what they were."""
    before, after = _shares(one.then), _shares(now)
    terms = [(b - a) * log(b / a) for a, b in zip(before, after, strict=True)]
    most = max(range(len(terms)), key=terms.__getitem__)
    spread = 1 / max(1, sum(one.then)) + 1 / max(1, sum(now))
    freedom = len(terms) - 1
    return Shift(
        output=one.choice.output,
        index=sum(terms),
        chance=spread * (freedom + _CHANCE * sqrt(2 * freedom)),
        predictions=sum(now),
        class_name=one.choice.classes[most],
        share_then=before[most],
        share_now=after[most],
    )


def _only(one: Look, output: str) -> Look:
    return replace(one, predictions={name: found for name, found in one.predictions.items() if name == output})


def _counts(drift: Drift, one: Look) -> tuple[tuple[int, ...], ...]:
    return tuple(counted(each.choice, one.predictions.get(each.choice.output)) for each in drift.outputs)


def _sum(many: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*many, strict=True)))


def _shares(counts: tuple[int, ...]) -> list[float]:
    """Shares of classes; half a prediction more of each, so that none is 0."""
    total = sum(counts) + len(counts) / 2
    return [(count + 0.5) / total for count in counts]


__all__ = ["ENOUGH", "ENOUGH_REQUESTS", "WARN_AT", "Baseline", "Drift", "Shift", "begin", "look", "shift"]
