"""`advance`: where a rollout goes next, from where it stands and what was seen.

Takes a `Rollout`, `Facts` and the time, hands on the next `Rollout` and the `Action`s that make the world
agree with it.

Rules, in this order:
1. **Rollback is always reachable**: abort and rollback are obeyed in every phase that has something to go back to,
   the end of the rollout included; a failing verdict goes back by itself.
2. **Never remove the last healthy revision**: traffic moves only to a revision that is ready; a revision is stopped
   only when another one is ready and the gateway confirms that it has all traffic. Where nothing is behind the
   candidate, a failure holds instead.
3. **No data is not health**: what was not seen (readiness, golden cases, the live weight, a verdict) changes nothing
   for the better, however long it takes; time alone never raises a weight.
4. **Never promote on inconclusive**: a weight rises only by a passing verdict about the step that is running, or by a
   person at a pause or a hold; a person cannot promote past a failure. What stays undecided for longer than its step
   allows is held.
5. Actions are the difference between what is wanted and what was seen, so the same facts after a crash give the same
   actions, and each may be done twice.

It does not judge (`watch` does) and does nothing itself.
"""

from __future__ import annotations

from msgspec.structs import replace

from intermodal.rooms.deploy.rollout import FULL, Action, Command, Do, Facts, Hold, Phase, Rollout
from intermodal.rooms.deploy.verdict import Outcome, Verdict


def advance(rollout: Rollout, facts: Facts, now_s: float) -> tuple[Rollout, tuple[Action, ...]]:
    """Return the rollout's next state and what to do for it.

    Args:
        rollout: as stored; store what is returned before its actions are done, and again after.
        facts: what was seen since; the defaults mean "not seen".
        now_s: seconds of a clock that does not jump; where it jumps back, steps only last longer.
    """
    state = _go_back(rollout, facts, now_s)
    if state is rollout:
        state = _FORWARD[rollout.phase](rollout, facts, now_s)
    return state, _actions(state, facts)


# --- rule 1: going back


def _go_back(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    if rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return rollout
    if rollout.over and (rollout.stable is None or facts.command is not Command.ROLLBACK):
        return rollout
    if facts.command is Command.ROLLBACK or facts.command is Command.ABORT:
        return _return_to_stable(rollout, now_s, f"{facts.command.value} was asked for")
    if facts.verdict is not None and facts.verdict.outcome is Outcome.FAIL:
        return _return_to_stable(rollout, now_s, facts.verdict.reason)
    if facts.golden_passed is False:
        return _return_to_stable(rollout, now_s, "golden cases failed on the live endpoint")
    return rollout


def _return_to_stable(rollout: Rollout, now_s: float, reason: str) -> Rollout:
    if rollout.stable is None and rollout.weight_percent:
        return _hold(rollout, Hold.NOTHING_BEHIND, now_s, f"{reason}; there is no revision to go back to")
    return replace(rollout, phase=Phase.ROLLING_BACK, weight_percent=0, since_s=now_s, held=None, reason=reason)


def _rolling_back(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    gone = not facts.candidate_running
    if rollout.stable is None:
        return replace(rollout, phase=Phase.ROLLED_BACK, since_s=now_s) if gone else rollout
    done = gone and facts.stable_ready and facts.live_weight_percent == 0
    return replace(rollout, phase=Phase.ROLLED_BACK, since_s=now_s) if done else rollout


# --- rules 3 and 4: going forward


def _starting(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    if facts.candidate_ready:
        return replace(rollout, phase=Phase.CHECKING)
    return _unless_too_late(rollout, now_s, "the new revision did not become ready")


def _checking(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    if facts.golden_passed and facts.candidate_ready and _behind(rollout, facts):
        return _enter(rollout, 0 if rollout.stable is not None else len(rollout.plan.steps), now_s)
    return _unless_too_late(rollout, now_s, "golden cases got no answer from the live endpoint")


def _unless_too_late(rollout: Rollout, now_s: float, what: str) -> Rollout:
    if now_s - rollout.since_s < rollout.plan.start_max_s:
        return rollout
    return _return_to_stable(rollout, now_s, f"{what} in {rollout.plan.start_max_s:g} s")


def _judging(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    verdict = _about_this_step(rollout, facts)
    if verdict is not None and verdict.hold:
        return _hold(rollout, Hold.SHIFT, now_s, verdict.reason)
    if _may_rise(rollout, facts, verdict):
        return _enter(rollout, rollout.step + 1, now_s)
    if now_s - rollout.since_s >= rollout.plan.steps[rollout.step].max_time_s:
        reason = verdict.reason if verdict is not None else "nothing was observed"
        return _hold(rollout, Hold.NO_DATA, now_s, f"undecided in the step's time: {reason}")
    return rollout


def _paused(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    return _by_person(rollout, facts, now_s)


def _held(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    verdict = _about_this_step(rollout, facts)
    if rollout.held is Hold.NO_DATA and verdict is not None and verdict.hold:
        return _hold(rollout, Hold.SHIFT, now_s, verdict.reason)
    if rollout.held is Hold.NO_DATA and _may_rise(rollout, facts, verdict):
        return _next(rollout, now_s)
    limit = rollout.plan.held_max_s
    if rollout.held is Hold.SHIFT and limit is not None and now_s - rollout.since_s >= limit:
        return _return_to_stable(rollout, now_s, f"{rollout.reason}; nobody promoted it in {limit:g} s")
    return _by_person(rollout, facts, now_s)


def _baking(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    verdict = _about_this_step(rollout, facts)
    if verdict is not None and verdict.hold:
        return _hold(rollout, Hold.SHIFT, now_s, verdict.reason)
    if now_s - rollout.since_s < rollout.plan.bake_s:
        return rollout
    if _may_rise(rollout, facts, verdict):
        return _next(rollout, now_s)
    reason = verdict.reason if verdict is not None else "nothing was observed"
    return _hold(rollout, Hold.NO_DATA, now_s, f"undecided at the end of the bake: {reason}")


def _stay(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    return rollout


def _by_person(rollout: Rollout, facts: Facts, now_s: float) -> Rollout:
    failed = facts.golden_passed is False or (facts.verdict is not None and facts.verdict.outcome is Outcome.FAIL)
    asked = facts.command is Command.PROMOTE and not failed
    return _next(rollout, now_s) if asked and facts.candidate_ready and _behind(rollout, facts) else rollout


def _next(rollout: Rollout, now_s: float) -> Rollout:
    if rollout.weight_percent == FULL:
        return replace(rollout, phase=Phase.PROMOTED, since_s=now_s, held=None, reason="")
    return _enter(rollout, rollout.step + 1, now_s)


def _enter(rollout: Rollout, step: int, now_s: float) -> Rollout:
    steps = rollout.plan.steps
    fresh = replace(rollout, step=step, since_s=now_s, held=None, reason="")
    if step >= len(steps):
        return replace(fresh, phase=Phase.BAKING, weight_percent=FULL)
    if steps[step].pause:
        return replace(fresh, phase=Phase.PAUSED)
    return replace(fresh, phase=Phase.JUDGING, weight_percent=0 if steps[step].mirror else steps[step].weight_percent)


def _hold(rollout: Rollout, why: Hold, now_s: float, reason: str) -> Rollout:
    if rollout.phase is Phase.HELD and rollout.held is why:
        return rollout
    return replace(rollout, phase=Phase.HELD, held=why, since_s=now_s, reason=reason)


def _about_this_step(rollout: Rollout, facts: Facts) -> Verdict | None:
    return facts.verdict if facts.verdict is not None and facts.verdict.step == rollout.step else None


def _may_rise(rollout: Rollout, facts: Facts, verdict: Verdict | None) -> bool:
    passed = verdict is not None and verdict.outcome is Outcome.PASS and not verdict.hold
    live = facts.live_weight_percent == rollout.weight_percent
    return passed and live and facts.candidate_ready and _behind(rollout, facts)


def _behind(rollout: Rollout, facts: Facts) -> bool:
    return rollout.stable is None or facts.stable_ready


_FORWARD = {
    Phase.STARTING: _starting,
    Phase.CHECKING: _checking,
    Phase.JUDGING: _judging,
    Phase.PAUSED: _paused,
    Phase.HELD: _held,
    Phase.BAKING: _baking,
    Phase.PROMOTED: _stay,
    Phase.ROLLING_BACK: _rolling_back,
    Phase.ROLLED_BACK: _stay,
}


# --- rules 2 and 5: what to do


def _actions(rollout: Rollout, facts: Facts) -> tuple[Action, ...]:
    wanted: list[Action] = []
    keep_stable = rollout.phase is not Phase.PROMOTED
    keep_candidate = rollout.phase not in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    if rollout.stable is not None and keep_stable and not facts.stable_running:
        wanted.append(Action(Do.START, rollout.stable))
    if keep_candidate and not facts.candidate_running:
        wanted.append(Action(Do.START, rollout.candidate))
    if rollout.phase is Phase.CHECKING and facts.golden_passed is None and facts.candidate_ready:
        wanted.append(Action(Do.CHECK, rollout.candidate))
    if facts.live_mirror != rollout.mirror:
        wanted.append(Action(Do.MIRROR, rollout.candidate, on=rollout.mirror))
    wanted += _weight(rollout, facts)
    wanted += _stops(rollout, facts)
    return tuple(wanted)


def _weight(rollout: Rollout, facts: Facts) -> list[Action]:
    live, weight = facts.live_weight_percent, rollout.weight_percent
    if live == weight or (rollout.stable is None and weight == 0):
        return []
    candidate_gains = live is None or weight > live
    stable_gains = live is None or weight < live
    candidate_fit = facts.candidate_ready or weight == 0
    stable_fit = facts.stable_ready or weight == FULL
    if (candidate_gains and not candidate_fit) or (stable_gains and not stable_fit):
        return []
    return [Action(Do.WEIGHT, rollout.candidate, weight_percent=weight)]


def _stops(rollout: Rollout, facts: Facts) -> list[Action]:
    if rollout.phase is Phase.PROMOTED and rollout.stable is not None:
        safe = facts.candidate_ready and facts.live_weight_percent == FULL
        return [Action(Do.STOP, rollout.stable)] if safe and facts.stable_running else []
    if rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK) and facts.candidate_running:
        safe = rollout.stable is None or (facts.stable_ready and facts.live_weight_percent == 0)
        return [Action(Do.STOP, rollout.candidate)] if safe else []
    return []
