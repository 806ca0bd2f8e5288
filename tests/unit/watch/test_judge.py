"""The judge: what it sends back, what it holds, what it lets pass, and that it says why."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from intermodal.rooms.deploy.verdict import Outcome
from intermodal.rooms.watch.counts import (
    Arm,
    Evidence,
    Split,
    Window,
    binned,
    chosen_classes,
    in_order,
    pace_edges,
    quantile_edges,
)
from intermodal.rooms.watch.evidence import (
    WORSE,
    Count,
    e_value,
    highest_rate,
    highest_ratio,
    rate_e_value,
    share,
    stepwise_e_value,
)
from intermodal.rooms.watch.judge import LEANING, USUAL, Rules, judge, outcome_of

CLASSES = ("cat", "dog", "(other)")
RULES = Rules(classes=CLASSES)
STABLE = Arm(requests=9000, errors=18, slow=450, classes=(5400, 3240, 360), usual=4500, timed=9000)
CANARY = Arm(requests=1000, errors=2, slow=50, classes=(600, 360, 40), usual=500, timed=1000)


def seen(canary: Arm, stable: Arm = STABLE, **more: object) -> Evidence:
    return Evidence().add(replace(Window(10.0, stable, canary), **more))


def test_an_equal_canary_passes_and_says_what_it_could_have_missed() -> None:
    verdict = judge(seen(CANARY), RULES, min_requests=500)
    assert (verdict.outcome, verdict.hold) == (Outcome.PASS, False)
    errors, slow, usual, classes, limit = verdict.findings
    assert (errors.canary_events, errors.canary_requests, errors.stable_events) == (2, 1000, 18)
    assert errors.missed_ratio is not None and 2 <= errors.missed_ratio <= 10
    assert slow.missed_ratio is not None and slow.missed_ratio < errors.missed_ratio, "more events tell more"
    assert limit.missed_rate is not None and limit.missed_rate < 0.05
    text = "\n".join(verdict.explain())
    assert text.startswith("pass: nothing beyond its margin in 1000 requests")
    assert "errors: canary 2 of 1000, stable 18 of 9000" in text
    assert "could have missed up to" in text
    assert usual.missed_ratio is not None and 0.6 < usual.missed_ratio < 1
    assert "in the usual time: canary 500 of 1000, stable 4500 of 9000" in text
    assert f"could have missed down to {usual.missed_ratio:.3g} times stable's odds" in text
    assert classes.signal.startswith("class ")


@pytest.mark.parametrize(
    ("change", "signal"),
    [({"errors": 25}, "errors"), ({"slow": 170}, "slow"), ({"errors": 120}, "errors"), ({"usual": 150}, USUAL)],
)
def test_worse_than_the_margin_fails(change: dict[str, int], signal: str) -> None:
    verdict = judge(seen(replace(CANARY, **change)), RULES, min_requests=500)
    assert verdict.outcome is Outcome.FAIL
    (count,) = change.values()
    assert verdict.reason.startswith(f"beyond the margin, {signal}: canary {count} of 1000")


def test_worse_within_the_margin_passes() -> None:
    slower = replace(CANARY, errors=3, slow=70, usual=340)
    assert judge(seen(slower), RULES, min_requests=500).outcome is Outcome.PASS
    strict = replace(RULES, slow_ratio=1.0)
    many = replace(STABLE, requests=90000, slow=4500, usual=45000, timed=90000)
    tenfold = seen(replace(slower, requests=10000, slow=700, usual=3400, timed=10000), many)
    assert judge(tenfold, strict, min_requests=500).outcome is Outcome.FAIL
    assert judge(tenfold, RULES, min_requests=500).outcome is Outcome.PASS


@pytest.mark.parametrize("classes", [(200, 760, 40), (960, 0, 40), (500, 300, 200)])
def test_a_class_shift_is_held_or_fails_as_the_project_says(classes: tuple[int, ...]) -> None:
    shifted = seen(replace(CANARY, classes=classes))
    verdict = judge(shifted, RULES, min_requests=500)
    assert (verdict.outcome, verdict.hold) == (Outcome.INCONCLUSIVE, True)
    assert "a person decides: class " in verdict.reason
    assert judge(shifted, replace(RULES, class_shift_fails=True), min_requests=500).outcome is Outcome.FAIL


def test_a_failure_is_not_hidden_by_a_shift() -> None:
    both = seen(replace(CANARY, errors=60, classes=(200, 760, 40)))
    assert judge(both, RULES, min_requests=500).outcome is Outcome.FAIL


def test_no_data_is_not_health() -> None:
    assert judge(Evidence(), RULES, min_requests=0).outcome is Outcome.INCONCLUSIVE
    few = judge(
        seen(Arm(requests=499, classes=(300, 180, 19)), Arm(requests=4500, classes=(2700, 1620, 180))),
        RULES,
        min_requests=500,
    )
    assert (few.outcome, few.reason) == (Outcome.INCONCLUSIVE, "499 requests of the canary, 500 are needed")
    alone = judge(seen(Arm(requests=600), Arm()), Rules(), min_requests=500)
    assert (alone.outcome, alone.reason) == (Outcome.INCONCLUSIVE, "no requests of stable to compare with")
    assert judge(Evidence(), RULES, min_requests=1).findings[0].missed_rate is None
    assert "could have missed anything" in judge(Evidence(), RULES, min_requests=1).findings[0].sentence()


def test_what_leans_towards_worse_or_could_hide_it_does_not_pass() -> None:
    few = replace(CANARY, requests=150, timed=150, errors=0, slow=7, usual=75, classes=(90, 54, 6))
    stable = replace(STABLE, requests=1350, timed=1350, errors=0, slow=68, usual=675, classes=(810, 486, 54))
    assert judge(seen(few, stable), RULES, min_requests=100).outcome is Outcome.PASS
    for change, why in [
        ({"errors": 3}, "more requests must decide: errors: canary 3 of 150, stable 0 of 1350; evidence"),
        ({"slow": 25}, "more requests must decide: slow: canary 25 of 150"),
        ({"usual": 28}, f"more requests must decide: {USUAL}: canary 28 of 150"),
        ({"timed": 0, "slow": 0, "usual": 0}, "how long the canary takes was not seen yet"),
    ]:
        verdict = judge(seen(replace(few, **change), stable), RULES, min_requests=100)
        assert (verdict.outcome, verdict.hold) == (Outcome.INCONCLUSIVE, False), change
        assert verdict.reason.startswith(why)
    tiny = [replace(one, timed=one.timed // 10, slow=one.slow // 10, usual=one.usual // 10) for one in (few, stable)]
    assert "much slower ones could hide" in judge(seen(*tiny), RULES, min_requests=100).reason
    half = judge(seen(replace(CANARY, timed=100, slow=5, usual=50)), RULES, min_requests=500)
    assert (half.outcome, half.reason) == (
        Outcome.INCONCLUSIVE,
        "how long requests take was not seen of both revisions alike",
    )
    lone = judge(seen(replace(CANARY, errors=2), replace(STABLE, errors=0)), RULES, min_requests=500)
    assert lone.findings[0].evidence > LEANING and lone.outcome is Outcome.PASS, "two of a thousand hold nobody up"


def test_a_new_step_needs_its_own_requests_and_keeps_the_evidence() -> None:
    bad = seen(replace(CANARY, errors=25)).at_step(1)
    assert judge(bad, RULES, min_requests=500).outcome is Outcome.FAIL
    good = seen(CANARY).at_step(1)
    verdict = judge(good, RULES, min_requests=500)
    assert (verdict.outcome, verdict.step, verdict.canary_requests) == (Outcome.INCONCLUSIVE, 1, 0)
    assert good.at_step(1) is good


def test_windows_that_do_not_count_do_not() -> None:
    bad = replace(CANARY, errors=900)
    evidence = seen(bad, excluded="straddles a change of weight")
    assert (evidence.rows, evidence.step_canary, evidence.left_out, evidence.circuit_open) == ((), 0, 1, False)


def test_what_was_not_divided_by_the_weight_is_not_compared() -> None:
    fewer = seen(Arm(requests=500, errors=1, slow=25, classes=(300, 180, 20), usual=250, timed=500))
    verdict = judge(fewer, RULES, min_requests=500)
    assert (verdict.outcome, verdict.hold) == (Outcome.INCONCLUSIVE, False)
    assert verdict.reason.startswith("the canary got fewer requests than its weight")
    assert judge(seen(Arm(requests=500, errors=40)), RULES, min_requests=500).outcome is Outcome.FAIL
    more = seen(Arm(requests=3000, errors=6, slow=150, classes=(1800, 1080, 120), usual=1500, timed=3000))
    assert judge(more, RULES, min_requests=500).reason.startswith("the canary got more requests than its weight")
    assert judge(seen(Arm(requests=3000, errors=900)), RULES, min_requests=500).reason.startswith(
        "beyond the margin, error limit"
    )


def test_the_circuit_needs_no_statistics_but_spares_a_canary_whose_stable_fails_too() -> None:
    healthy, failing = Arm(requests=180), Arm(requests=180, errors=100)
    for errors, requests, stable, outcome in [
        (10, 20, healthy, Outcome.FAIL),
        (9, 20, healthy, None),
        (19, 19, healthy, None),
        (10, 20, failing, None),
    ]:
        evidence = seen(Arm(requests=requests, errors=errors), stable)
        assert evidence.circuit_open is (outcome is Outcome.FAIL), (errors, requests)
    slowly = Evidence()
    for _ in range(20):
        slowly = slowly.add(Window(10.0, Arm(requests=9), Arm(requests=1, errors=1)))
    assert slowly.circuit_open
    gone = judge(seen(CANARY, canary_healthy=False), RULES, min_requests=500)
    assert (gone.outcome, gone.reason) == (Outcome.FAIL, "the canary has no healthy endpoint")


def test_limits_hold_without_stable() -> None:
    full = Window(100.0, Arm(), Arm(requests=2000, errors=180, over_limit=10))
    evidence = Evidence().add(full)
    assert judge(evidence, Rules(), min_requests=1).reason.startswith("beyond the margin, error limit:")
    assert judge(evidence, Rules(max_error_rate=None), min_requests=1).outcome is Outcome.PASS
    slow = Evidence().add(replace(full, canary=Arm(requests=2000, over_limit=80)))
    assert judge(slow, Rules(max_p99_s=1.0), min_requests=1).reason.startswith("beyond the margin, over 1 s:")


def test_replica_ratios_are_not_compared_and_pairs_are_even() -> None:
    worse = replace(CANARY, errors=40)
    assert judge(seen(worse, split=Split.REPLICAS), RULES, min_requests=500).outcome is Outcome.PASS
    each = replace(CANARY, classes=())
    even = Evidence().add(Window(0.0, replace(each, errors=30), replace(each, errors=32), Split.PAIRS))
    assert judge(even, RULES, min_requests=500).outcome is Outcome.PASS
    uneven = Evidence().add(Window(0.0, each, replace(each, errors=32), Split.PAIRS))
    assert judge(uneven, RULES, min_requests=500).outcome is Outcome.FAIL


def test_an_e_value_by_hand_and_its_expectation() -> None:
    null, other = share(0.1, 1.5), share(0.1, 3.0)
    by_hand = (other / null) ** 3 * ((1 - other) / (1 - null)) ** 2
    assert e_value([Count(0.1, 3, 5)], 1.5, (2.0,)) == pytest.approx(by_hand)
    outcomes = [(e_value([Count(0.1, hit, 1)], 1.5, WORSE), null if hit else 1 - null) for hit in (0, 1)]
    assert sum(value * chance for value, chance in outcomes) == pytest.approx(1.0)
    two = e_value([Count(0.1, 3, 5), Count(0.5, 2, 4)], 1.5, (2.0,))
    assert two == pytest.approx(by_hand * e_value([Count(0.5, 2, 4)], 1.5, (2.0,))), "weights multiply"
    assert rate_e_value(0, 0, 0.05) == 1.0
    assert e_value([Count(0.1, 10**6, 10**6)], 1.5, WORSE) > 1e100, "does not overflow"


def test_what_the_first_step_showed_does_not_speak_for_a_canary_that_became_worse_with_the_second() -> None:
    counts = [Count(0.1, 3, 120), Count(0.5, 40, 45)]
    by_hand = e_value(counts, 1.5, WORSE) / 2 + e_value(counts[1:], 1.5, WORSE) / 4 + 1 / 4
    assert stepwise_e_value(counts, 1.5, WORSE) == pytest.approx(by_hand)
    assert stepwise_e_value([], 1.5, WORSE) == 1.0
    idle = seen(
        replace(CANARY, slow=0, usual=1000, classes=()), replace(STABLE, slow=3000, usual=3000, classes=())
    )  # stable is crowded, and the canary has next to nothing to do
    assert judge(idle, Rules(), min_requests=500).outcome is Outcome.PASS
    at_half = idle.at_step(1).add(
        Window(50.0, Arm(30, slow=1, usual=15, timed=30), Arm(30, slow=2, usual=14, timed=30))
    )
    assert "in 30 requests of the canary much slower ones could hide" in judge(at_half, Rules(), min_requests=20).reason
    worse = idle.at_step(1).add(Window(50.0, Arm(80, slow=4, usual=40, timed=80), Arm(80, slow=60, timed=80)))
    assert judge(worse, Rules(), min_requests=500).outcome is Outcome.FAIL


def test_bounds_close_in_with_more_requests() -> None:
    bounds = [highest_ratio([Count(0.1, events, events * 10)]) for events in (0, 2, 10, 100, 10_000)]
    assert bounds[0] is None
    known = [bound for bound in bounds if bound is not None]
    assert known == sorted(known, reverse=True) and known[-1] == 1.1
    assert [highest_rate(0, n) for n in (1, 100, 1000, 100_000)] == [None, 0.05, 0.005, 0.0001]


def test_words_of_observers() -> None:
    assert chosen_classes({"a": 1, "b": 5, "c": 3}, most=2) == ("b", "c", "(other)")
    assert in_order({"b": 5, "new": 2}, ("b", "c", "(other)")) == (5, 0, 2)
    edges = quantile_edges([float(n) for n in range(100)], bins=4)
    assert edges == (25.0, 50.0, 75.0)
    assert binned([1.0, 25.0, 26.0, 99.0, float("nan")], edges) == (2, 1, 0, 1, 1)
    assert quantile_edges([]) == () and quantile_edges([0.0] * 9) == (0.0,)
    histogram = [(0.01, 500), (0.02, 940), (0.0205, 970), (0.03, 1000)]
    assert pace_edges(histogram, 0.95) == (0.02, 0.03) and pace_edges(histogram, 0.5) == (0.01, 0.02)
    assert pace_edges([(0.01, 0)], 0.95) is None and pace_edges([], 0.95) is None
    assert pace_edges([(0.01, 10)], 0.95) == (0.01, pytest.approx(0.0105))


def test_both_ways_of_asking_agree() -> None:
    for canary in (CANARY, replace(CANARY, errors=60), replace(CANARY, classes=(200, 760, 40))):
        verdict = judge(seen(canary), RULES, min_requests=500)
        assert outcome_of(seen(canary), RULES, min_requests=500) == (verdict.outcome, verdict.hold)
