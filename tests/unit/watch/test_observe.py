"""What becomes evidence, and what does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from intermodal.rooms.deploy.target import Counters, ReplicaReport, Scrape, Traffic
from intermodal.rooms.watch.choice import Choice, choose, counted
from intermodal.rooms.watch.counts import Split, Window
from intermodal.rooms.watch.looks import Prediction, beyond, looks
from intermodal.rooms.watch.observe import Moment, Observer, Setting, requests_per_s
from intermodal.rooms.watch.pace import Pace, Recent

EDGES = [0.001, 0.002, 0.005, 0.01]
SETTING = Setting(candidate=2, stable=1, settle_s=1.0, warm_up_s=3.0)
HALF = Traffic(((1, 50), (2, 50)))


def report(
    name: str = "a",
    *,
    requests: int = 0,
    rows: int | None = None,
    slow: int = 0,
    classes: Mapping[str, int] | None = None,
    numbers: list[tuple[float, float, int]] | None = None,
    traffic: str = "live",
) -> ReplicaReport:
    """A server that was asked so often; `slow` of its answers took 10 ms, the others less than 1 ms."""
    sketch: dict[str, Any] = {"rows": requests, "classes": dict(classes or {}), "other": 0}
    if numbers is not None:
        sketch["numbers"] = {"buckets": numbers, "nan": 2}
    counts = [requests - slow, 0, 0, slow, 0]
    asked = {"codes": {"200": requests}, "rows": requests if rows is None else rows, "duration_s": {"counts": counts}}
    document = {
        "duration_edges_s": EDGES,
        "requests": {traffic: asked},
        "outputs": [{"name": "label", "traffic": {traffic: sketch}}],
    }
    return ReplicaReport(name, document)


def moment(
    at_s: float,
    stable: int,
    canary: int,
    *,
    traffic: Traffic | None = HALF,
    errors: int = 0,
    retries: int = 0,
    healthy: int = 1,
    born: str = "g",
    mirror: bool = False,
    reports: tuple[tuple[ReplicaReport, ...], tuple[ReplicaReport, ...]] = ((), ()),
) -> Moment:
    live = {1: Counters(stable, healthy=1), 2: Counters(canary, errors, retries, healthy=healthy)}
    none = {1: Counters(), 2: Counters()}
    scrape = Scrape(none | {1: live[1]}, live, born) if mirror else Scrape(live, none, born)
    return Moment(at_s, traffic, scrape, *reports)


def observed(*moments: Moment, setting: Setting = SETTING, choice: Choice | None = None) -> list[Window | None]:
    observer = Observer(setting, choice)
    return [observer.window(one) for one in moments]


def test_requests_and_errors_are_what_the_gateway_counted_since_the_moment_before() -> None:
    windows = observed(*(moment(at, 100 * at, 10 * at, errors=at, retries=at) for at in range(5)))
    assert windows[0] is None
    last = windows[4]
    assert last is not None and (last.excluded, last.weight_percent, last.split) == ("", 50.0, Split.RANDOM)
    assert (last.stable.requests, last.canary.requests) == (100, 10)
    assert last.canary.errors == 2, "an attempt that was repeated is an error, too"


def test_moments_after_a_change_of_weight_do_not_count() -> None:
    other = Traffic(((1, 90), (2, 10)))
    windows = observed(*(moment(at / 2, 0, 0, traffic=HALF if at < 6 else other) for at in range(14)))
    counts = [index for index, window in enumerate(windows) if window is not None and not window.excluded]
    assert counts == [3, 4, 5, 9, 10, 11, 12, 13]
    assert windows[6] is not None and windows[6].excluded == "straddles a change of weight"


def test_a_gateway_that_began_anew_is_not_believed_once() -> None:
    windows = observed(*(moment(at, 100, 10, born="g" if at < 4 else "h") for at in range(7)))
    assert [window.excluded for window in windows[2:] if window is not None] == [
        "", "", "the gateway began anew", "", "",
    ]  # fmt: skip


def test_what_cannot_be_seen_is_no_window() -> None:
    seen = [moment(0, 0, 0), moment(1, 5, 5)]
    assert observed(seen[0], replace(seen[1], scrape=None)) == [None, None]
    assert observed(seen[0], replace(seen[1], traffic=None)) == [None, None]
    assert observed(*(replace(one, traffic=Traffic(((1, 100), (2, 0)))) for one in seen)) == [None, None]
    steady = [moment(at, 10 * at, 10 * at, traffic=None if at == 3 else HALF) for at in range(8)]
    excluded = [window.excluded if window else None for window in observed(*steady)]
    assert excluded[4:6] == ["straddles a change of weight"] * 2, "what happened meanwhile is unknown"
    assert excluded[6] == ""


def test_no_healthy_endpoint_is_told_even_where_nothing_counts() -> None:
    windows = observed(moment(0, 0, 0), moment(0.5, 0, 0, healthy=0))
    assert windows[1] is not None and windows[1].excluded and not windows[1].canary_healthy


def test_in_the_warm_up_nobody_is_slow_and_errors_count() -> None:
    choice = Choice(Pace(slow=(0.005, 0.005), usual=(0.001, 0.001)))
    moments = [
        moment(
            at, 10 * at, 10 * at, errors=at,
            reports=((report(requests=10 * at, slow=at),), (report(requests=10 * at, slow=2 * at),)),
        )
        for at in range(6)
    ]  # fmt: skip
    windows = observed(*moments, choice=choice)
    found = [(one.canary.errors, one.canary.slow, one.stable.slow) for one in windows if one is not None]
    assert found == [(1, 0, 0), (1, 0, 0), (1, 2, 1), (1, 2, 1), (1, 2, 1)]
    clocked = [(one.canary.usual, one.canary.timed, one.stable.usual) for one in windows if one is not None]
    assert clocked == [(0, 0, 0), (0, 0, 0), (8, 10, 9), (8, 10, 9), (8, 10, 9)]


def test_a_replica_counts_from_when_it_is_seen_and_a_new_process_from_zero() -> None:
    def at(second: int, *canary: ReplicaReport) -> Moment:
        return moment(second, 100 * second, 100 * second, reports=((report(requests=100 * second),), canary))

    choice = Choice(output="label", classes=("x", "(other)"))
    windows = observed(
        at(0, report("a", requests=5, classes={"x": 5})),
        at(1, report("a", requests=8, classes={"x": 8}), report("b", requests=900, classes={"x": 900})),
        at(2, report("a", requests=8, classes={"x": 8}), report("b", requests=907, classes={"x": 907})),
        at(3, report("b", requests=907, classes={"x": 907})),
        at(4, report("b", requests=4, classes={"x": 4})),
        choice=choice,
    )
    found = [(one.canary.requests, one.canary.classes) for one in windows if one is not None]
    assert found == [(100, ()), (100, (7, 0)), (100, ()), (100, (4, 0))], "half a view is none, a fallen counter is"


def test_latencies_count_only_where_both_revisions_told_theirs() -> None:
    def at(second: int, *whose: str) -> Moment:
        said = tuple((report(requests=10 * second, slow=second),) if one in whose else () for one in ("s", "c"))
        return moment(second, 10 * second, 10 * second, reports=(said[0], said[1]))

    choice = Choice(Pace(slow=(0.005, 0.005), usual=(0.001, 0.001)))
    both = ("s", "c")
    windows = observed(
        *(at(second, *both) for second in range(5)), at(5, "s"), at(6, *both), at(7, *both), choice=choice
    )
    found = [(one.stable.timed, one.canary.timed, one.canary.slow) for one in windows[4:] if one is not None]
    assert found == [(10, 10, 1), (0, 0, 0), (0, 0, 0), (10, 10, 1)]


def test_many_rows_of_one_request_are_one_draw() -> None:
    def at(second: int) -> Moment:
        many = report(requests=10 * second, rows=1000 * second, classes={"x": 750 * second, "y": 250 * second})
        one = report(requests=10 * second, classes={"x": 10 * second})
        return moment(second, 10 * second, 10 * second, reports=((one,), (many,)))

    choice = Choice(output="label", classes=("x", "y", "(other)"))
    windows = [one for one in observed(*(at(second) for second in range(5)), choice=choice) if one is not None]
    assert [sum(one.canary.classes[index] for one in windows) for index in range(3)] == [30, 10, 0]
    assert [one.stable.classes for one in windows] == [(10, 0, 0)] * 4


def test_users_that_stick_are_not_compared() -> None:
    windows = observed(moment(0, 0, 0), moment(1, 9, 9), setting=replace(SETTING, sticky=True))
    assert windows[1] is not None and windows[1].split is Split.REPLICAS


def test_copies_are_pairs_with_what_stable_was_asked() -> None:
    mirrored = Traffic(((1, 100), (2, 0)), mirror=2)
    windows = observed(*(moment(at, 10 * at, 10 * at, errors=at, traffic=mirrored, mirror=True) for at in range(4)))
    last = windows[3]
    assert last is not None and (last.split, last.excluded) == (Split.PAIRS, "")
    assert (last.stable.requests, last.canary.requests, last.canary.errors) == (10, 10, 1)


def test_the_choice_waits_for_enough_of_stable_and_then_stays() -> None:
    few = looks([report(requests=150, slow=15, classes={"x": 100, "y": 50})], "live").values()
    assert choose(Choice(), few) == Choice()
    enough = looks([report(requests=500, slow=40, classes={"x": 400, "y": 100})], "live").values()
    chosen = choose(Choice(), enough)
    assert chosen == Choice(None, "label", ("x", "y", "(other)"))
    later = looks([report(requests=900, slow=800, classes={"z": 900})], "live").values()
    assert choose(chosen, later) == chosen


def test_numbers_become_classes_by_stable_s_quantiles() -> None:
    numbers = [(float(low), low + 1.0, 10) for low in range(100)]
    stable = looks([report(requests=1000, numbers=numbers)], "live").values()
    chosen = choose(Choice(), stable)
    assert len(chosen.edges) == 9 and chosen.edges[0] == 10.0 and len(chosen.classes) == 11
    (look,) = stable
    assert counted(chosen, look.predictions["label"]) == (*[100] * 10, 2)
    shifted = Prediction(10, {}, ((-5.0, -4.0, 7), (99.0, 100.0, 3)))
    assert counted(chosen, shifted) == (7, *[0] * 8, 3, 0)
    assert counted(chosen, None) == (0,) * 11


@pytest.mark.parametrize("document", [{}, {"requests": 7, "outputs": []}, {"requests": {}, "outputs": [{"name": 1}]}])
def test_a_server_that_talks_nonsense_is_left_out(document: dict[str, Any]) -> None:
    assert looks([ReplicaReport("a", document)], "live") == {}


def test_beyond_counts_what_took_longer() -> None:
    look = looks([report(requests=10, slow=3)], "live")["a"]
    assert [beyond(look.latency, edge) for edge in (0.001, 0.005, 0.01, 9.0)] == [3, 3, 0, 0]
    assert beyond((), 1.0) == 0


def test_the_rate_is_what_was_asked_between_two_moments() -> None:
    assert requests_per_s(moment(0, 100, 0), moment(2, 300, 0), 1) == 100.0
    assert requests_per_s(moment(0, 100, 0), replace(moment(2, 300, 0), scrape=None), 1) is None


def edges(observer: Observer) -> tuple[float, float] | None:
    """Stable's: beyond which it is slow, and up to which it is usual."""
    pace = observer.choice.pace
    return (pace.slow[0], pace.usual[0]) if pace is not None else None


def test_slow_begins_where_stable_stands_now_not_where_it_once_stood() -> None:
    alone = Traffic(((1, 100),))
    bad = report(requests=1000, slow=600)  # once it was overloaded
    good = report(requests=1500, slow=600)
    observer = Observer(SETTING)
    observer.window(moment(0, 0, 0, traffic=alone, reports=((bad,), ())))
    assert edges(observer) is None, "it waits for what stable does now"
    observer.window(moment(1, 500, 0, traffic=alone, reports=((good,), ())))
    assert edges(observer) == (0.001, 0.001)
    hurried = Observer(SETTING)
    hurried.window(moment(0, 0, 0, reports=((bad,), ())))
    assert edges(hurried) == (0.01, 0.001), "all there is, where the canary is asked"


def test_slow_moves_with_stable_and_is_known_before_what_is_judged_by_it() -> None:
    observer, counts = Observer(SETTING), [0, 0]
    seen = []
    for second in range(12):
        counts[0] += 100
        counts[1] += 90 if 4 <= second < 8 else 0  # a spell in which nearly all takes long
        one = report(requests=counts[0], slow=counts[1])
        window = observer.window(moment(second, counts[0], counts[0], reports=((one,), (one,))))
        seen.append((edges(observer), window.canary.slow if window is not None else None))
    assert [pace for pace, _ in seen] == [
        None, *[(0.001, 0.001)] * 3, *[(0.01, 0.001)] * 5, *[(0.001, 0.001)] * 3,
    ]  # fmt: skip
    assert [slow for _, slow in seen[3:]] == [0, 90, 0, 0, 0, 0, 0, 0, 0], "judged by the seconds before"


def test_a_stable_that_is_another_process_is_looked_at_anew() -> None:
    recent = Recent()
    for requests in (0, 150, 300):
        pace = recent.pace(looks([report("a", requests=requests)], "live"))
    assert pace is not None
    assert recent.pace(looks([report("b", requests=1000, slow=900)], "live")) is None
    assert recent.pace(looks([report("b", requests=1100, slow=900)], "live")) is None
    found = recent.pace(looks([report("b", requests=1210, slow=900)], "live"))
    assert found is not None and found.slow[0] == 0.001
    assert recent.pace({}) is None
