"""A rollout as values: its plan, where it stands, what was seen, and what shall be done.

Takes the strategy and steps of the project, hands on a `Plan`. A `Rollout` is all that must be stored: with it and
fresh `Facts`, `advance` goes on after a crash where it stopped. Times are seconds of a clock of the caller.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

from msgspec import Struct

from intermodal.rooms.deploy.verdict import Verdict

Strategy = Literal["canary", "blue-green", "shadow", "rolling"]
FULL = 100


class Phase(Enum):
    """Where a rollout stands; there are no others."""

    STARTING = "starting"  # the candidate is being started
    CHECKING = "checking"  # its golden cases are being replayed, without traffic
    JUDGING = "judging"  # it has the weight of a step
    PAUSED = "paused"  # a step of the plan that waits for a person
    HELD = "held"  # something that the plan did not foresee waits for data or a person
    BAKING = "baking"  # it has all traffic, the old revision is warm
    PROMOTED = "promoted"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"


class Hold(Enum):
    """Why a rollout is held."""

    NO_DATA = "no data"  # goes on by itself when a verdict passes
    SHIFT = "shift"  # a person decides
    NOTHING_BEHIND = "nothing behind"  # failed, but there is no revision to go back to


class Command(Enum):
    """What a person may ask for."""

    PROMOTE = "promote"  # past a pause or a hold; never past a failure
    ABORT = "abort"
    ROLLBACK = "rollback"  # as abort, and from the end of a rollout too


class Step(Struct, frozen=True):
    """One step of a plan."""

    weight_percent: int = 0
    pause: bool = False
    mirror: bool = False  # copies of requests, whose answers are thrown away
    min_requests: int = 500
    max_time_s: float = 3600.0


class Plan(Struct, frozen=True):
    """The way from the first request to all of them."""

    steps: tuple[Step, ...] = ()
    bake_s: float = 1800.0
    start_max_s: float = 600.0  # a candidate that is not ready and checked by then goes
    held_max_s: float | None = None  # after that, what is held for a shift is rolled back; None: waits for ever


class Rollout(Struct, frozen=True):
    """All that must survive a crash."""

    candidate: int
    stable: int | None  # None: the first revision of all
    plan: Plan
    phase: Phase = Phase.STARTING
    step: int = 0  # len(plan.steps) is the bake
    weight_percent: int = 0  # wanted, of the candidate
    since_s: float = 0.0  # when the phase or step began
    held: Hold | None = None
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether only a command can change it."""
        return self.phase in (Phase.PROMOTED, Phase.ROLLED_BACK)

    @property
    def mirror(self) -> bool:
        """Whether the candidate shall see copies of requests now."""
        inside = self.phase in (Phase.JUDGING, Phase.HELD) and self.step < len(self.plan.steps)
        return inside and self.plan.steps[self.step].mirror


class Facts(Struct, frozen=True):
    """What was seen since the last time; what was not seen is None or False, never assumed."""

    candidate_ready: bool = False
    stable_ready: bool = False
    candidate_running: bool = False  # a container is there, ready or not
    stable_running: bool = False
    live_weight_percent: int | None = None  # what the gateway confirms
    live_mirror: bool = False
    golden_passed: bool | None = None  # None: not replayed on the live endpoint yet
    verdict: Verdict | None = None
    command: Command | None = None


class Do(Enum):
    """What can be done; each may be repeated without harm."""

    START = "start"
    CHECK = "check"
    WEIGHT = "weight"
    MIRROR = "mirror"
    STOP = "stop"


class Action(Struct, frozen=True):
    """One thing to do."""

    do: Do
    revision: int
    weight_percent: int = 0  # of the candidate, for WEIGHT
    on: bool = False  # for MIRROR


def make_plan(
    strategy: Strategy | Literal["auto"],
    steps: tuple[Step, ...],
    *,
    bake_s: float = 1800.0,
    replicas: int = 1,
    requests_per_s: float | None = None,
    held_max_s: float | None = None,
) -> Plan:
    """Return the plan of a strategy.

    Args:
        strategy: `auto` is canary where every step can be decided in its time, else blue-green with the bake.
        steps: of canary and shadow; weights rise.
        bake_s: judged on at full weight.
        replicas: of rolling: one step for each but the last.
        requests_per_s: what stable gets, for `auto`; None (unknown) is too little.
        held_max_s: see `Plan`.

    Raises:
        ValueError: weights that fall or are not 1 to 99; the project's reader says so before.
    """
    weights = [step.weight_percent for step in steps if not step.pause and not step.mirror]
    if weights != sorted(weights) or any(not 0 < weight < FULL for weight in weights):
        raise ValueError(f"weights of steps must rise between 1 and 99, found {weights}")
    if strategy == "auto":
        strategy = "canary" if can_decide(steps, requests_per_s) else "blue-green"
    if strategy == "blue-green":
        steps = ()
    elif strategy == "shadow":
        steps = (Step(mirror=True, min_requests=steps[0].min_requests if steps else 500), *steps)
    elif strategy == "rolling":
        shares = sorted({index * FULL // replicas for index in range(1, replicas)} - {0})
        steps = tuple(Step(weight_percent=share) for share in shares)
    return Plan(steps=steps, bake_s=bake_s, held_max_s=held_max_s)


def can_decide(steps: tuple[Step, ...], requests_per_s: float | None) -> bool:
    """Whether every step gets its `min_requests` within its `max_time_s` at this rate."""
    judged = [step for step in steps if not step.pause]
    return bool(judged) and all(
        (requests_per_s or 0.0) * (1 if step.mirror else step.weight_percent / FULL) * step.max_time_s
        >= step.min_requests
        for step in judged
    )
