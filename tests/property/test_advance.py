"""The rules of `advance`, over random histories: facts that lie, verdicts that are late, people, clocks that jump."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from intermodal.rooms.deploy.advance import advance
from intermodal.rooms.deploy.rollout import FULL, Action, Command, Do, Facts, Hold, Phase, Plan, Rollout, Step
from intermodal.rooms.deploy.verdict import Outcome, Verdict

STEPS = st.lists(
    st.builds(
        Step,
        weight_percent=st.integers(1, 99),
        pause=st.booleans(),
        mirror=st.booleans(),
        max_time_s=st.sampled_from([5.0, 50.0]),
    ),
    max_size=4,
).map(lambda steps: tuple(sorted(steps, key=lambda step: step.weight_percent)))
PLANS = st.builds(
    Plan,
    steps=STEPS,
    bake_s=st.sampled_from([0.0, 20.0]),
    start_max_s=st.sampled_from([5.0, 500.0]),
    held_max_s=st.sampled_from([None, 10.0]),
)
VERDICTS = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    step=st.integers(0, 4),
    reason=st.just("x"),
    hold=st.booleans(),
)
PASSED = Verdict(Outcome.PASS, -1, "as asked")
# mostly good weather, so that histories reach the end of a rollout
MOSTLY = st.sampled_from([True, True, True, False])
FACTS = st.builds(
    Facts,
    candidate_ready=MOSTLY,
    stable_ready=MOSTLY,
    candidate_running=MOSTLY,
    stable_running=MOSTLY,
    live_weight_percent=st.sampled_from([-1, -1, -1, None, 0, 10, 100]) | st.integers(0, 100),  # -1: as wanted
    live_mirror=st.booleans(),
    golden_passed=st.sampled_from([None, True, True, True, False]),
    verdict=st.sampled_from([None, PASSED, PASSED]) | VERDICTS,  # -1: about the running step
    command=st.sampled_from([None, None, None, None, *Command]),
)
HISTORIES = st.lists(st.tuples(FACTS, st.sampled_from([-100.0, 0.0, 1.0, 30.0, 1000.0])), max_size=25)
Moment = tuple[Rollout, Facts, Rollout, tuple[Action, ...], float]


def settled(facts: Facts, state: Rollout) -> Facts:
    live = state.weight_percent if facts.live_weight_percent == -1 else facts.live_weight_percent
    verdict = facts.verdict
    if verdict is not None and verdict.step == -1:
        verdict = replace(verdict, step=state.step)
    return replace(facts, live_weight_percent=live, verdict=verdict)


def moments(plan: Plan, stable: int | None, history: list[tuple[Facts, float]]) -> list[Moment]:
    state, now, found = Rollout(candidate=2, stable=stable, plan=plan), 0.0, []
    for wild, later in history:
        now += later
        facts = settled(wild, state)
        after, actions = advance(state, facts, now)
        found.append((state, facts, after, actions, now))
        state = after
    return found


@given(PLANS, st.sampled_from([None, 1]), HISTORIES)
@settings(max_examples=100, deadline=None)
def test_rules_hold_in_every_history(plan: Plan, stable: int | None, history: list[tuple[Facts, float]]) -> None:
    for before, facts, after, actions, now in moments(plan, stable, history):
        check(before, facts, after, actions, now)


@given(PLANS, st.sampled_from([None, 1]), st.sampled_from(Phase), st.integers(0, 3), st.sampled_from(Hold), FACTS)
@settings(max_examples=600, deadline=None)
def test_rules_hold_from_every_state(
    plan: Plan, stable: int | None, phase: Phase, step: int, held: Hold, wild: Facts
) -> None:
    """Histories seldom get far; this begins anywhere."""
    before = anywhere(plan, stable, phase, step, held)
    facts = settled(wild, before)
    for now in (0.0, 1000.0):
        check(before, facts, *advance(before, facts, now), now)


def anywhere(plan: Plan, stable: int | None, phase: Phase, step: int, held: Hold) -> Rollout:
    last = len(plan.steps)
    if phase in (Phase.BAKING, Phase.PROMOTED) or stable is None:
        step = last
    step = min(step, last)
    if phase in (Phase.JUDGING, Phase.PAUSED) and step == last:
        phase = Phase.BAKING
    early = phase in (Phase.STARTING, Phase.CHECKING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    weight = 0 if early else FULL if step == last else plan.steps[step].weight_percent
    if phase is Phase.HELD and held is Hold.NOTHING_BEHIND and stable is not None:
        held = Hold.SHIFT
    return Rollout(2, stable, plan, phase, 0 if early else step, weight, held=held if phase is Phase.HELD else None)


def check(before: Rollout, facts: Facts, after: Rollout, actions: tuple[Action, ...], now: float) -> None:
    stable = before.stable
    raised = after.weight_percent > before.weight_percent or (
        after.phase is Phase.PROMOTED and before.phase is not Phase.PROMOTED
    )
    passed = (
        facts.verdict is not None
        and facts.verdict.outcome is Outcome.PASS
        and facts.verdict.step == before.step
        and not facts.verdict.hold
        and facts.live_weight_percent == before.weight_percent
    )
    person = facts.command is Command.PROMOTE and before.phase in (Phase.PAUSED, Phase.HELD)
    first = before.phase is Phase.CHECKING and facts.golden_passed is True
    failed = facts.golden_passed is False or (facts.verdict is not None and facts.verdict.outcome is Outcome.FAIL)
    if raised:
        assert passed or person or first, "promoted on something else than a pass"
        assert facts.candidate_ready, "promoted what is not ready"
        assert stable is None or facts.stable_ready, "promoted with nothing healthy behind"
        assert not failed, "promoted a failure"
        assert stable is None or after.step - before.step in (0, 1), "a step was left out"
    if failed and not before.over and stable is not None:
        assert after.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        assert after.weight_percent == 0
    going_back = facts.command is Command.ROLLBACK or (facts.command is Command.ABORT and not before.over)
    if stable is not None and going_back:
        assert after.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK), "rollback was not reachable"
    for action in actions:
        check_action(action, facts, after)
    assert advance(after, Facts(), now)[0].weight_percent <= after.weight_percent, "no data raised a weight"


def check_action(action: Action, facts: Facts, state: Rollout) -> None:
    if action.do is Do.STOP:
        if action.revision == state.candidate and state.stable is None:
            assert state.weight_percent == 0
            return
        other_ready = facts.candidate_ready if action.revision == state.stable else facts.stable_ready
        has_all = FULL if action.revision == state.stable else 0
        assert other_ready, "stopped the last healthy revision"
        assert facts.live_weight_percent == has_all, "stopped what has traffic"
    if action.do is Do.WEIGHT:
        live = facts.live_weight_percent
        if live is None or action.weight_percent > live:
            assert facts.candidate_ready or action.weight_percent == 0, "traffic to what is not ready"
        if live is None or action.weight_percent < live:
            assert facts.stable_ready or action.weight_percent == FULL, "traffic to what is not ready"


@given(PLANS, HISTORIES)
@settings(max_examples=100, deadline=None)
def test_time_alone_never_raises(plan: Plan, history: list[tuple[Facts, float]]) -> None:
    last = moments(plan, 1, history)[-1:] or [(Rollout(2, 1, plan),) * 3]
    state, now = last[0][2], 0.0
    silent = Facts(candidate_ready=True, stable_ready=True, candidate_running=True, stable_running=True)
    for _ in range(30):
        now += 10_000
        after, _ = advance(state, silent, now)
        assert after.weight_percent <= state.weight_percent
        assert after.phase is not Phase.PROMOTED or state.phase is Phase.PROMOTED
        state = after


@given(PLANS, HISTORIES)
@settings(max_examples=80, deadline=None)
def test_rollback_ends_with_all_traffic_on_stable(plan: Plan, history: list[tuple[Facts, float]]) -> None:
    last = moments(plan, 1, history)[-1:]
    state = last[0][2] if last else Rollout(2, 1, plan)
    world = World(state.weight_percent)
    asked: Command | None = Command.ROLLBACK
    for _ in range(8):
        state, actions = advance(state, world.facts(asked), 0.0)
        asked = None
        world.do(actions)
    assert state.phase is Phase.ROLLED_BACK
    assert (world.weight, world.running) == (0, {1})


@given(PLANS, st.sampled_from([None, 1]), st.lists(st.integers(0, 8), max_size=12))
@settings(max_examples=100, deadline=None)
def test_good_candidates_arrive_whatever_dies(plan: Plan, stable: int | None, deaths: list[int]) -> None:
    """A world that does what it is told, in which containers die and restart; someone healthy always has traffic."""
    state, world, now = Rollout(2, stable, plan), World(0, {1} if stable else set()), 0.0
    for tick in range(80):
        now += 1
        if tick < len(deaths) and deaths[tick] in world.running and len(world.running) > 1:
            world.running -= {deaths[tick]}  # the world starts it again when told
        verdict = Verdict(Outcome.PASS, state.step, "good")
        state, actions = advance(state, world.facts(Command.PROMOTE, verdict), now)
        again, repeated = advance(state, world.facts(None), now)
        world.do(actions)
        world.do(actions)
        if again == state:
            assert set(repeated) <= {*actions} or repeated == actions
    assert state.phase is Phase.PROMOTED, state
    assert (world.weight, world.running) == (FULL, {2})


class World:
    """Containers and a gateway that do what they are told."""

    def __init__(self, weight: int, running: set[int] | None = None) -> None:
        self.weight, self.running, self.mirror, self.golden = (
            weight,
            running if running is not None else {2},
            False,
            False,
        )

    def facts(self, command: Command | None = None, verdict: Verdict | None = None) -> Facts:
        return Facts(
            candidate_ready=2 in self.running,
            stable_ready=1 in self.running,
            candidate_running=2 in self.running,
            stable_running=1 in self.running,
            live_weight_percent=self.weight,
            live_mirror=self.mirror,
            golden_passed=self.golden or None,
            verdict=verdict,
            command=command,
        )

    def do(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if action.do is Do.START:
                self.running |= {action.revision}
            elif action.do is Do.STOP:
                self.running -= {action.revision}
                assert self.running, "the last one was stopped"
            elif action.do is Do.WEIGHT:
                self.weight = action.weight_percent
            elif action.do is Do.MIRROR:
                self.mirror = action.on
            else:
                self.golden = True


def test_a_shift_waits_for_a_person_or_the_policy() -> None:
    plan = Plan(steps=(Step(weight_percent=10),), held_max_s=60.0)
    state = Rollout(2, 1, plan, phase=Phase.JUDGING, weight_percent=10)
    shift = Facts(
        candidate_ready=True, stable_ready=True, live_weight_percent=10,
        verdict=Verdict(Outcome.INCONCLUSIVE, 0, "classes shifted", hold=True),
    )  # fmt: skip
    held, _ = advance(state, shift, 1.0)
    assert (held.phase, held.held, held.weight_percent) == (Phase.HELD, Hold.SHIFT, 10)
    assert advance(held, shift, 60.0)[0] == held
    assert advance(held, shift, 61.0)[0].phase is Phase.ROLLING_BACK


def test_what_is_undecided_is_held_and_goes_on_when_data_comes() -> None:
    plan = Plan(steps=(Step(weight_percent=10, max_time_s=60.0), Step(weight_percent=50)))
    state = Rollout(2, 1, plan, phase=Phase.JUDGING, weight_percent=10)
    held, _ = advance(state, Facts(candidate_ready=True, stable_ready=True, live_weight_percent=10), 60.0)
    assert (held.phase, held.held) == (Phase.HELD, Hold.NO_DATA)
    passing = Facts(
        candidate_ready=True, stable_ready=True, live_weight_percent=10, verdict=Verdict(Outcome.PASS, 0, "")
    )
    assert advance(held, passing, 61.0)[0].weight_percent == 50


def test_the_first_revision_that_fails_under_traffic_is_held_not_removed() -> None:
    state = Rollout(1, None, Plan(), phase=Phase.BAKING, weight_percent=FULL)
    bad = Facts(
        candidate_ready=True, candidate_running=True, live_weight_percent=FULL, verdict=Verdict(Outcome.FAIL, 0, "bad")
    )
    held, actions = advance(state, bad, 1.0)
    assert (held.phase, held.held, actions) == (Phase.HELD, Hold.NOTHING_BEHIND, ())
    assert "no revision to go back to" in held.reason
