"""What a watcher gathers beside counters: predictions by request id, for copies and for labels.

Takes a rollout's writer and target, hands on findings for the judge, and keeps what was gathered in the state file.

Rules, in order:
1. Nothing here ends a rollout by failing: what cannot be read is missing, and what is missing is no evidence.
2. In a step of copies the predictions must have been compared: a pass without as many pairs as the step needs requests
   is inconclusive, unless a revision keeps no predictions, which the verdict then says.
3. An answer has a weight only where the traffic had settled and none was pushed out of a ring: else one revision's
   answers could be missing more often than the other's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from intermodal.errors import StoreError
from intermodal.rooms.deploy import answers
from intermodal.rooms.deploy.answers import Answer
from intermodal.rooms.deploy.rollout import FULL, Phase, Rollout
from intermodal.rooms.deploy.state import StateFile, Stored
from intermodal.rooms.deploy.target import Target, Traffic
from intermodal.rooms.deploy.verdict import Finding, Outcome, Verdict
from intermodal.rooms.deploy.writer import Writer
from intermodal.rooms.watch.copies import Compared, Copies, disagreements
from intermodal.rooms.watch.judge import Rules
from intermodal.rooms.watch.labels import wrong_answers
from intermodal.rooms.watch.observe import SETTLE_S
from intermodal.rooms.watch.rings import Predicted, Ring
from intermodal_server.contract import ENV_RING

_KEEP_S = 1.0
_LOOKED_AT = (Phase.JUDGING, Phase.PAUSED, Phase.HELD, Phase.BAKING)
Tolerance = tuple[float | None, float | None]  # rtol and atol


class Beside:
    """For one rollout.

    Args:
        writer: holds the lock of the model.
        stored: the rollout.
        target: where it runs.
        tolerance: of the candidate's image, asked when the first copies are compared.
    """

    def __init__(self, writer: Writer, stored: Stored, target: Target, tolerance: Callable[[], Tolerance]) -> None:
        self._writer, self._state, self._id = writer, writer.state, stored.id
        self._model, self._tolerance = writer.model, tolerance
        rollout = stored.rollout
        self._candidate, self._stable = rollout.candidate, rollout.stable
        numbers = [one for one in (rollout.stable, rollout.candidate) if one is not None]
        known = self._state.revisions(self._model)
        kept = {one.number for one in known if dict(one.settings.environment).get(ENV_RING, "0") != "0"}
        self.silent = tuple(one for one in numbers if one not in kept)  # revisions that keep no predictions
        self._rings = {one: Ring(target, one) for one in numbers if one in kept}
        self._compared = compared_in(self._state, stored) or Compared()
        self._copies: Copies | None = None
        self._traffic: Traffic | None = None
        self._steady_s = self._looked_s = 0.0
        self._waiting: list[Answer] = []
        self._kept_s = 0.0

    @property
    def compared(self) -> Compared:
        """What came of the copies so far."""
        return self._copies.compared if self._copies is not None else self._compared

    def look(self, rollout: Rollout, traffic: Traffic | None, now_s: float) -> None:
        """Gather what was predicted since the last time."""
        if rollout.phase not in _LOOKED_AT or not self._rings:
            return
        if traffic != self._traffic:
            self._traffic, self._steady_s = traffic, now_s
        before = self._lost()
        found = {number: ring.new() for number, ring in self._rings.items()}
        settled = traffic is not None and self._looked_s - self._steady_s >= SETTLE_S and self._lost() == before
        self._looked_s = now_s
        mirrored = traffic is not None and traffic.mirror == self._candidate
        if mirrored and self._stable is not None and not self.silent:
            if self._copies is None:
                rtol, atol = self._tolerance()
                self._copies = Copies(self._compared, rtol=rtol, atol=atol)
            self._copies.add(found[self._stable], found[self._candidate])
        share = float(traffic.percent(self._candidate)) if settled and traffic is not None and not mirrored else None
        weight = share if share is not None and 0 < share < FULL else None
        for number, predicted in found.items():
            self._waiting += _answers(predicted, number, self._id, weight, copied=mirrored)
        if now_s - self._kept_s >= _KEEP_S:
            self._kept_s = now_s
            self._keep()

    def _lost(self) -> int:
        return sum(ring.lost for ring in self._rings.values())

    def _keep(self) -> None:
        waiting, self._waiting = self._waiting, []
        with suppress(StoreError):  # a full disk costs examples and labels; what decides is stored elsewhere
            answers.keep_answers(self._state, self._model, waiting)
            if self._copies is not None and self._copies.compared != self._compared:
                answers.keep_compared(self._state, self._id, msgspec.json.encode(self._copies.compared).decode())
                self._compared = self._copies.compared

    def findings(self, rules: Rules) -> tuple[Finding, ...]:
        """What copies and labels show."""
        found = []
        if self.compared.pairs:
            found.append(disagreements(self.compared, rules))
            if found[0].alarmed:  # whoever reads the verdict shall find its examples
                self._keep()
        if self._stable is not None:
            tallies = answers.tallies(self._state, self._model, self._id)
            wrong = wrong_answers(tallies, stable=self._stable, canary=self._candidate, rules=rules)
            found += [wrong] if wrong is not None else []
        return tuple(found)

    def enough(self, rollout: Rollout, verdict: Verdict) -> Verdict:
        """The verdict, or an inconclusive one where copies were not compared yet."""
        steps = rollout.plan.steps
        copied = rollout.step < len(steps) and steps[rollout.step].mirror
        if not copied or verdict.outcome is not Outcome.PASS:
            return verdict
        if self.silent:
            names = " and ".join(str(one) for one in self.silent)
            return replace(
                verdict, reason=f"{verdict.reason}; predictions were not compared: none are kept of revision {names}"
            )
        needed = max(1, steps[rollout.step].min_requests)
        if self.compared.pairs >= needed:
            return verdict
        text = f"{self.compared.pairs} predictions of copies were compared, {needed} are needed"
        if self.compared.not_comparable:
            text += f"; {self.compared.not_comparable} could not be"
        return replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=text)


def compared_in(state: StateFile, stored: Stored) -> Compared | None:
    """What came of the copies of a rollout; None where there were none."""
    text = answers.compared_of(state, stored.id)
    return msgspec.json.decode(text, type=Compared) if text else None


def _answers(
    predicted: Sequence[Predicted], revision: int, rollout: int, weight: float | None, *, copied: bool
) -> list[Answer]:
    wanted = ("live", "mirror") if copied else ("live",)
    return [
        Answer(one.request_id, revision, json.dumps(one.outputs, ensure_ascii=False), rollout, weight, copied)
        for one in predicted
        if one.traffic in wanted and one.outputs is not None
    ]
