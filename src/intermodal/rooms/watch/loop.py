"""The loop of a rollout: observe, judge, advance, store, act, store.

Takes a stored rollout, its writer and its target; hands on the rollout when it is over.

Rules, in order:
1. Everything that decides is asked anew each time: the target for what is there, the file for commands. What must not
   be forgotten (evidence, what was chosen to be compared) is stored with the rollout, so a watcher that dies at any
   point is replaced by another.
2. What `advance` wants is stored before it is done. What cannot be stored is not done, and tried again.
3. A failed action or a target that cannot be asked ends nothing: the next round sees what is there.
4. Golden cases are replayed before traffic and at every step, aside, so that judging never waits for them.
5. A revision that keeps ending fails without waiting for its time to be over.
6. A revision that lost its traffic is stopped a while after the gateway said so: on a busy machine its threads follow
   later than it says, and who still sends somebody there would find nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec.structs import replace

from intermodal.errors import IntermodalError
from intermodal.events import SILENT, Events
from intermodal.rooms.deploy.advance import advance
from intermodal.rooms.deploy.live import Replayed
from intermodal.rooms.deploy.revision import Revision
from intermodal.rooms.deploy.rollout import FULL, Action, Command, Do, Facts, Phase, Rollout
from intermodal.rooms.deploy.state import Stored
from intermodal.rooms.deploy.target import Seen, Target, Traffic
from intermodal.rooms.deploy.verdict import Outcome, Verdict
from intermodal.rooms.deploy.writer import Writer
from intermodal.rooms.watch.beside import Beside
from intermodal.rooms.watch.judge import judge
from intermodal.rooms.watch.memory import read_memory
from intermodal.rooms.watch.observe import Moment, Observer, Setting

TICK_S = 0.5
QUICK_S = 0.2
_REMEMBER_S = 1.0
_NUMBERS_S = 10.0
_LET_GO_S = 1.5
_JUDGED = (Phase.JUDGING, Phase.PAUSED, Phase.HELD, Phase.BAKING)
_STARTS = (Phase.STARTING, Phase.CHECKING)
_BEFORE = -1


class Replays(Protocol):
    """Golden cases on the live endpoint, replayed aside."""

    def begin(self, revision: Revision) -> None:
        """Replay a revision's cases, unless that is under way."""
        ...

    def result(self) -> Replayed | None:
        """What came out, once; None while there is nothing new."""
        ...


class Watcher:
    """Watches one rollout.

    Args:
        writer: holds the lock of the model.
        stored: the rollout as it is kept; its memory says the rules.
        target: where it runs.
        replays: of golden cases.
        beside: gathers predictions, for copies and labels.
        tell: is given a document for each change of phase, step or hold.
        events: for people.
    """

    def __init__(
        self,
        writer: Writer,
        stored: Stored,
        target: Target,
        replays: Replays,
        *,
        beside: Beside | None = None,
        tell: Callable[[Mapping[str, Any]], None] = lambda _: None,
        events: Events = SILENT,
    ) -> None:
        self.stored = stored
        self._writer, self._target, self._replays, self._beside = writer, target, replays, beside
        self._tell, self._events = tell, events
        memory = self._memory = read_memory(stored)
        rollout = stored.rollout
        self._rules = memory.rules
        self._evidence = memory.evidence
        self._observer = Observer(memory.setting or Setting(rollout.candidate, rollout.stable), memory.choice)
        self._revisions = {one.number: one for one in writer.state.revisions(writer.model)}
        self._golden: Replayed | None = None
        self._golden_step: int | None = None  # that the golden result is about; `_BEFORE` before any traffic
        self._asked_step: int | None = None  # that a replay is under way for
        self._last: tuple[Rollout, tuple[Action, ...]] | None = None
        self._kept: Verdict | None = None
        self._kept_s = 0.0
        self._remembered_s = 0.0
        self._warned = ""
        self._confirmed: Traffic | None = None
        self._confirmed_s = 0.0  # since when the gateway says so

    # --- the loop --------------------------------------------------------------------------------------------------
    def run(self, sleep: Callable[[float], None] = time.sleep) -> Rollout:
        """Watch until the rollout is over and nothing is left to be done."""
        with self._events.task(f"roll out revision {self.stored.rollout.candidate}") as task:
            while not self.tick():
                judged = self._kept.reason if self._kept is not None else ""
                task.label(" | ".join(part for part in (describe(self.stored.rollout), judged) if part))
                quick = self.stored.rollout.phase in (*_STARTS, Phase.ROLLING_BACK) or self.stored.over
                sleep(QUICK_S if quick else TICK_S)
        return self.stored.rollout

    def tick(self) -> bool:
        """One round; whether the rollout is over and nothing is left to be done."""
        try:
            return self._tick()
        except (IntermodalError, OSError) as error:  # the disk, the engine, the gateway: the next round looks again
            self._warn(str(error))
            return False

    def _tick(self) -> bool:
        rollout, now_s = self.stored.rollout, self._writer.state.clock.now_s()
        problem = self._target.tend()
        request = self._writer.next_request()
        facts, traffic = self._facts(rollout, now_s, request[1] if request else None)
        if traffic is None or traffic != self._confirmed:
            self._confirmed, self._confirmed_s = traffic, now_s
        after, actions = advance(rollout, facts, now_s)
        self._act(rollout, after, actions, traffic, request[0] if request else None)
        self._remember(now_s, changed=after != rollout)
        self._warn(problem)
        return after.over and not actions and _settled(after, facts)

    # --- facts -----------------------------------------------------------------------------------------------------
    def _facts(self, rollout: Rollout, now_s: float, command: Command | None) -> tuple[Facts, Traffic | None]:
        candidate, stable = rollout.candidate, rollout.stable
        numbers = [candidate] + ([stable] if stable is not None else [])
        seen, traffic = self._target.seen(numbers), self._target.traffic()
        mine, theirs = seen.get(candidate, Seen()), seen.get(stable, Seen()) if stable is not None else Seen()
        all_of_it = self._revisions[candidate].settings.replicas if rollout.phase is Phase.STARTING else 1
        verdict = self._verdict(rollout, traffic, mine, now_s)
        live = None
        if traffic is not None and traffic.weights and {one for one, share in traffic.weights if share} <= set(numbers):
            live = traffic.percent(candidate)
        mirrored = traffic is not None and traffic.mirror is not None
        if mirrored and traffic is not None and traffic.mirror != candidate:
            mirrored = not rollout.mirror  # somebody else's: it has to be changed in any case
        return (
            Facts(
                candidate_ready=mine.healthy >= all_of_it,
                stable_ready=theirs.healthy > 0,
                candidate_running=mine.containers >= all_of_it,
                stable_running=theirs.containers > 0,
                live_weight_percent=live,
                live_mirror=mirrored,
                golden_passed=self._golden_passed(rollout, mine),
                verdict=verdict,
                command=command,
            ),
            traffic,
        )

    def _verdict(self, rollout: Rollout, traffic: Traffic | None, mine: Seen, now_s: float) -> Verdict | None:
        if rollout.phase in _JUDGED or rollout.phase in _STARTS:
            self._observe(rollout, traffic, now_s)
        if mine.problem and rollout.phase in (*_JUDGED, *_STARTS):
            return Verdict(Outcome.FAIL, rollout.step, f"the new revision does not keep running: {mine.problem}")
        if rollout.phase not in _JUDGED:
            return None
        steps = rollout.plan.steps
        needed = steps[rollout.step].min_requests if rollout.step < len(steps) else 1
        more = self._beside.findings(self._rules) if self._beside is not None else ()
        verdict = judge(self._evidence.at_step(rollout.step), self._rules, min_requests=max(1, needed), beside=more)
        if self._beside is not None:
            verdict = self._beside.enough(rollout, verdict)
        if rollout.stable is None and verdict.outcome is Outcome.INCONCLUSIVE and self._golden_now(rollout):
            reason = "the first revision: nothing to compare with; its golden cases pass on the live endpoint"
            verdict = replace(verdict, outcome=Outcome.PASS, reason=reason)
        self._keep(verdict, now_s)
        return verdict

    def _keep(self, verdict: Verdict, now_s: float) -> None:
        """Store a verdict when it says something new, and now and then for its numbers."""
        kept = self._kept
        new = kept is None or (kept.outcome, kept.step, kept.hold) != (verdict.outcome, verdict.step, verdict.hold)
        if new or (now_s - self._kept_s >= _NUMBERS_S and kept != verdict):
            self._writer.judged(self.stored, verdict)
            self._kept, self._kept_s = verdict, now_s

    def _observe(self, rollout: Rollout, traffic: Traffic | None, now_s: float) -> None:
        """Add what happened since the last round to the evidence."""
        numbers = [rollout.candidate] + ([rollout.stable] if rollout.stable is not None else [])
        moment = Moment(
            now_s,
            traffic,
            self._target.scrape(numbers),
            self._target.reports(rollout.stable) if rollout.stable is not None else (),
            self._target.reports(rollout.candidate) if rollout.phase in _JUDGED else (),
        )
        if self._beside is not None:
            self._beside.look(rollout, traffic, now_s)
        window = self._observer.window(moment)
        self._rules = replace(self._rules, classes=self._observer.choice.classes)
        if window is not None and rollout.phase in _JUDGED:
            self._evidence = self._evidence.at_step(rollout.step).add(window)

    # --- golden cases ------------------------------------------------------------------------------------------------
    def _golden_passed(self, rollout: Rollout, mine: Seen) -> bool | None:
        """What the cases said of this step, or that they failed at any; asks for a replay where nothing is known."""
        if (result := self._replays.result()) is not None:
            asked, self._asked_step = self._asked_step, None
            self._warn("; ".join(result.problems))
            if result.passed is not None:
                self._golden, self._golden_step = result, asked
        if self._golden is not None and not self._golden.passed:
            return None if rollout.over else False
        if self._golden_now(rollout):
            return True
        if rollout.phase in _JUDGED and mine.healthy:
            self._replay(rollout)
        return None

    def _golden_now(self, rollout: Rollout) -> bool:
        passed = self._golden is not None and self._golden.passed is True
        return passed and self._golden_step == _step(rollout)

    def _replay(self, rollout: Rollout) -> None:
        if self._asked_step is None:
            self._asked_step = _step(rollout)
            self._replays.begin(self._revisions[rollout.candidate])

    # --- storing and doing -------------------------------------------------------------------------------------------
    def _act(
        self, before: Rollout, after: Rollout, actions: tuple[Action, ...], traffic: Traffic | None, request: int | None
    ) -> None:
        if after == before and (not actions or (after, actions) == self._last):
            if request is not None:
                self._writer.drop_request(request)
            self._do(after, actions, traffic)
            return
        self.stored, number = self._writer.intend(self.stored, after, actions, request=request)
        self._last = (after, actions)
        problem = self._do(after, actions, traffic)
        self._writer.done(number, problem)
        if (after.phase, after.step, after.held) != (before.phase, before.step, before.held):
            self._tell(self._document(after))
            self._events.notice(describe(after))

    def _do(self, rollout: Rollout, actions: tuple[Action, ...], traffic: Traffic | None) -> str:
        problems = []
        for action in actions:
            try:
                self._one(rollout, action, traffic)
            except IntermodalError as error:
                problems.append(str(error))
        self._warn("; ".join(problems))
        return "; ".join(problems)

    def _one(self, rollout: Rollout, action: Action, traffic: Traffic | None) -> None:
        if action.do is Do.START:
            self._target.start(self._revisions[action.revision])
        elif action.do is Do.STOP:
            if self._writer.state.clock.now_s() - self._confirmed_s >= _LET_GO_S:
                self._target.stop(action.revision)
        elif action.do is Do.CHECK:
            self._replay(rollout)
        elif action.do is Do.WEIGHT:
            self._target.set_traffic(Traffic(shares(rollout), rollout.candidate if rollout.mirror else None))
        elif action.do is Do.MIRROR and traffic is not None and traffic.weights:
            self._target.set_traffic(Traffic(traffic.weights, rollout.candidate if action.on else None))

    def _remember(self, now_s: float, *, changed: bool) -> None:
        text = replace(self._memory, rules=self._rules, evidence=self._evidence, choice=self._observer.choice).text()
        if text != self.stored.memory and (changed or now_s - self._remembered_s >= _REMEMBER_S):
            self.stored = self._writer.remember(self.stored, text)
            self._remembered_s = now_s

    def _document(self, rollout: Rollout) -> dict[str, Any]:
        return {
            "model": self._writer.name,
            "target": self._writer.target,
            "phase": rollout.phase.value,
            "step": rollout.step,
            "weight_percent": rollout.weight_percent,
            "candidate": rollout.candidate,
            "stable": rollout.stable,
            "held": rollout.held.value if rollout.held else None,
            "reason": rollout.reason,
            "endpoint": self._target.endpoint(),
        }

    def _warn(self, problem: str) -> None:
        if problem and problem != self._warned:
            self._events.warning(problem)
        self._warned = problem or self._warned


def _step(rollout: Rollout) -> int:
    return _BEFORE if rollout.phase in _STARTS else rollout.step


def _settled(rollout: Rollout, facts: Facts) -> bool:
    """Whether the world is as the end of a rollout wants it."""
    if rollout.phase is Phase.ROLLED_BACK and rollout.stable is None:
        return not facts.candidate_running
    left_over = facts.stable_running if rollout.phase is Phase.PROMOTED else facts.candidate_running
    return not left_over and facts.live_weight_percent == rollout.weight_percent


def shares(rollout: Rollout) -> tuple[tuple[int, int], ...]:
    """Who shall get which percent of the traffic."""
    if rollout.stable is None:
        return ((rollout.candidate, FULL),)
    return tuple(sorted([(rollout.candidate, rollout.weight_percent), (rollout.stable, FULL - rollout.weight_percent)]))


def describe(rollout: Rollout) -> str:
    """Where a rollout stands, in a line."""
    text = f"revision {rollout.candidate}: {rollout.phase.value}"
    if rollout.phase in _JUDGED and not rollout.mirror:
        text += f", {rollout.weight_percent} % of the traffic"
    elif rollout.mirror:
        text += ", copies of the traffic"
    if rollout.held:
        text += f" ({rollout.held.value})"
    return f"{text}: {rollout.reason}" if rollout.reason else text
