"""Judge and `advance` together, over whole rollouts of simulated requests: who ends with the traffic."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace
from simulate_rollouts import CLASSES, Case, binomial, canary_shares, multinomial, slow_share, usual_share

from intermodal.rooms.deploy.advance import advance
from intermodal.rooms.deploy.rollout import Command, Do, Facts, Hold, Phase, Plan, Rollout, Step, make_plan
from intermodal.rooms.watch.counts import STEADIER, Arm, Evidence, Window
from intermodal.rooms.watch.judge import Rules, judge

RULES = Rules(classes=CLASSES)
STEPS = (Step(weight_percent=5), Step(weight_percent=25), Step(pause=True), Step(weight_percent=50))
REQUESTS_PER_TICK = 2000
TICK_S = 10.0


def window(case: Case, weight: int, rng: Random) -> Window:
    canary = binomial(rng, REQUESTS_PER_TICK, weight / 100)
    stable = REQUESTS_PER_TICK - canary
    bad = case.errors if case.canary_errors is None else case.canary_errors
    return Window(
        float(weight),
        Arm(
            stable,
            binomial(rng, stable, case.errors),
            binomial(rng, stable, slow_share(1.0, 1.0, case.sigma)),
            0,
            multinomial(rng, stable, [0.1] * 10),
            binomial(rng, stable, 0.5),
            stable,
        ),
        Arm(
            canary,
            binomial(rng, canary, bad),
            binomial(rng, canary, slow_share(case.latency, STEADIER, case.sigma)),
            0,
            multinomial(rng, canary, canary_shares(case, rng)),
            binomial(rng, canary, usual_share(case.latency, STEADIER, case.sigma)),
            canary,
        ),
    )


def ends(case: Case, plan: Plan, seed: int) -> tuple[Rollout, int, set[int], int]:
    """The rollout's last state, the live weight, what runs, and the highest weight the candidate ever had."""
    rng, state, evidence = Random(seed), Rollout(2, 1, plan), Evidence()
    facts, weight, running, highest = Facts(), 0, {1}, 0
    for tick in range(400):
        if weight:
            evidence = evidence.at_step(state.step).add(window(case, weight, rng))
        verdict = judge(evidence.at_step(state.step), RULES, min_requests=500)
        facts = replace(
            facts,
            candidate_ready=2 in running,
            candidate_running=2 in running,
            stable_ready=1 in running,
            stable_running=1 in running,
            live_weight_percent=weight,
            verdict=verdict if weight else None,
            command=Command.PROMOTE if state.phase is Phase.PAUSED else None,
        )
        state, actions = advance(state, facts, tick * TICK_S)
        for action in actions:
            if action.do is Do.WEIGHT:
                weight = action.weight_percent
            elif action.do is Do.START:
                running.add(action.revision)
            elif action.do is Do.STOP:
                running.discard(action.revision)
            elif action.do is Do.CHECK:
                facts = replace(facts, golden_passed=True)
        highest = max(highest, weight)
    return state, weight, running, highest


PLAN = make_plan("canary", STEPS, bake_s=300.0)


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_retrain_arrives(seed: int) -> None:
    retrain = Case("retrain", errors=0.01, canary_errors=0.011, latency=1.05, jitter=0.2)
    state, weight, running, _ = ends(retrain, PLAN, seed)
    assert (state.phase, weight, running) == (Phase.PROMOTED, 100, {2})


@pytest.mark.parametrize(
    "case",
    [Case("errors", canary_errors=0.05), Case("slow", latency=2.0), Case("dead", canary_errors=0.9)],
    ids=lambda case: case.name,
)
def test_a_bad_one_goes_back_from_the_first_step(case: Case) -> None:
    state, weight, running, highest = ends(case, PLAN, 1)
    assert (state.phase, weight, running, highest) == (Phase.ROLLED_BACK, 0, {1}, 5)
    assert "errors" in state.reason or "slow" in state.reason or "failed" in state.reason


def test_a_shift_is_held_and_goes_back_by_policy() -> None:
    shift = Case("shift", class_factor=3.0)
    state, weight, running, _ = ends(shift, PLAN, 1)
    assert (state.phase, state.held, running) == (Phase.HELD, Hold.SHIFT, {1, 2})
    assert 0 < weight < 100
    state, weight, running, _ = ends(shift, make_plan("canary", STEPS, held_max_s=600.0), 1)
    assert (state.phase, weight, running) == (Phase.ROLLED_BACK, 0, {1})
    assert "class 'c0'" in state.reason and "nobody promoted it in 600 s" in state.reason


def test_plans_of_the_strategies() -> None:
    assert make_plan("blue-green", STEPS).steps == ()
    assert make_plan("auto", STEPS).steps == (), "an unknown rate is too little"
    assert make_plan("auto", STEPS, requests_per_s=500 / 3600 / 0.05).steps == STEPS
    assert make_plan("auto", STEPS, requests_per_s=499 / 3600 / 0.05).steps == ()
    assert make_plan("auto", (), requests_per_s=1e6).steps == ()
    assert [step.weight_percent for step in make_plan("rolling", (), replicas=4).steps] == [25, 50, 75]
    assert [step.mirror for step in make_plan("shadow", STEPS[:1]).steps] == [True, False]
    with pytest.raises(ValueError, match="must rise"):
        make_plan("canary", (Step(weight_percent=50), Step(weight_percent=5)))
