"""Rings, copies and what comes of them: joins by request id, disagreements with examples, and a verdict of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from support.worlds import World

from intermodal.rooms.deploy.answers import answers_to
from intermodal.rooms.deploy.revision import Exposure, Settings
from intermodal.rooms.deploy.rollout import Phase, Plan, Rollout, Step
from intermodal.rooms.deploy.target import RingPage, Traffic
from intermodal.rooms.deploy.verdict import Outcome, Verdict
from intermodal.rooms.watch.beside import Beside, compared_in
from intermodal.rooms.watch.copies import WORST, Compared, Copies, disagreements
from intermodal.rooms.watch.counts import Arm, Evidence, Split, Window
from intermodal.rooms.watch.judge import Rules, judge
from intermodal.rooms.watch.rings import Predicted, Ring


def label(value: str) -> dict[str, Any]:
    return {"name": "label", "datatype": "BYTES", "shape": [1], "data": [value]}


def number(value: float) -> dict[str, Any]:
    return {"name": "price", "datatype": "FP64", "shape": [1], "data": [value]}


def said(request_id: str, output: dict[str, Any] | None, traffic: str = "live", **more: Any) -> Predicted:
    return Predicted(request_id, traffic, None if output is None else (output,), **more)


class Servers:
    """Rings of replicas, as targets tell them."""

    def __init__(self) -> None:
        self.rings: dict[int, dict[str, list[dict[str, Any]]]] = {}
        self.instances: dict[str, str] = {}
        self.most = 10_000

    def answer(self, revision: int, request_id: str, output: Any, traffic: str = "live", place: str = "0") -> None:
        ring = self.rings.setdefault(revision, {}).setdefault(place, [])
        ring.append({"number": len(ring) + 1, "request_id": request_id, "traffic": traffic, "outputs": output})

    def predictions(self, revision: int, after: Mapping[str, int]) -> tuple[RingPage, ...]:
        found = []
        for place, ring in self.rings.get(revision, {}).items():
            kept = ring[-self.most :]
            page = [one for one in kept if one["number"] > after.get(place, 0)][:1000]
            first = kept[0]["number"] if kept else 1
            document = {
                "format": 1, "instance": self.instances.get(f"{revision}/{place}", "a"), "first": first,
                "last": len(ring), "predictions": page, "next": page[-1]["number"] if page else after.get(place, 0),
            }  # fmt: skip
            found.append(RingPage(place, document))
        return tuple(found)


def test_ring_begins_with_what_comes_and_reads_every_page_once() -> None:
    servers = Servers()
    servers.answer(1, "before", [label("a")])
    ring = Ring(servers, 1)  # type: ignore[arg-type]
    assert ring.new() == []
    for index in range(2500):
        servers.answer(1, f"r{index}", [label("a")], place=str(index % 2))
    found = ring.new()
    assert [one.request_id for one in found if int(one.request_id[1:]) % 2 == 0] == [f"r{n}" for n in range(0, 2500, 2)]
    assert ring.new() == [], "the second replica was seen for the first time in between: only from now on"
    servers.answer(1, "later", [label("a")], place="1")
    assert [one.request_id for one in ring.new()] == ["later"]
    assert len(Ring(servers, 1, everything=True).new()) == 2502  # type: ignore[arg-type]


def test_ring_of_a_process_that_began_anew_is_read_from_its_first_number() -> None:
    servers = Servers()
    for index in range(5):
        servers.answer(1, f"old{index}", [label("a")])
    ring = Ring(servers, 1)  # type: ignore[arg-type]
    ring.new()
    servers.rings[1]["0"].clear()
    servers.instances["1/0"] = "b"
    servers.answer(1, "new", [label("a")])
    assert [one.request_id for one in ring.new()] == ["new"]
    assert ring.lost == 0


def test_what_newer_predictions_pushed_out_is_told() -> None:
    servers = Servers()
    servers.most = 10
    servers.answer(1, "x", [label("a")])
    ring = Ring(servers, 1)  # type: ignore[arg-type]
    ring.new()
    for index in range(25):
        servers.answer(1, f"r{index}", [label("a")])
    assert (len(ring.new()), ring.lost) == (10, 15)


def test_nonsense_of_a_server_is_left_out() -> None:
    class Odd(Servers):
        def predictions(self, revision: int, after: Mapping[str, int]) -> tuple[RingPage, ...]:
            entries = [3, {}, {"request_id": "a", "traffic": "live", "outputs": 7}]
            documents: list[dict[str, Any]] = [
                {},
                {"instance": 1, "first": "x", "last": 2, "next": 3, "predictions": []},
                {"instance": "i", "first": 1, "last": 3, "next": 3, "predictions": entries},
            ]
            return tuple(RingPage(str(place), document) for place, document in enumerate(documents))

    ring = Ring(Odd(), 1, everything=True)  # type: ignore[arg-type]
    assert ring.new() == []


def test_pairs_are_joined_in_any_order_and_only_once() -> None:
    copies = Copies(Compared())
    copies.add([said("a", label("cat")), said("b", label("cat"))], [])
    copies.add([said("c", label("cat"))], [said("b", label("dog"), "mirror"), said("a", label("cat"), "mirror")])
    assert (copies.compared.pairs, copies.compared.disagreed) == (2, 1)
    copies.add([], [said("c", label("cat"), "live"), said("c", label("dog"), "golden")])
    assert copies.compared.pairs == 2, "neither is the answer to a copy"
    copies.add([said("a", label("cat"))], [said("a", label("cow"), "mirror")])
    assert copies.compared.pairs == 2, "an id that comes again is nobody's pair"
    copies.add([said("d", label("cat")), said("d", label("cat"))], [said("d", label("cow"), "mirror")])
    assert (copies.compared.pairs, copies.compared.twice) == (2, 1)
    copies.add([said("e", None)], [said("e", label("cow"), "mirror")])
    assert (copies.compared.pairs, copies.compared.not_comparable) == (2, 1)
    copies.add([said("f", {"name": "x", "shape": [1], "data": {"a": 1}})], [said("f", {"name": 1}, "mirror")])
    assert copies.compared.pairs + copies.compared.not_comparable == 4


def test_numbers_agree_within_the_tolerance_and_the_worst_are_kept_with_examples() -> None:
    copies = Copies(Compared(), rtol=0.1)
    inputs = ({"name": "x", "data": [4.0]},)
    for index in range(20):
        copies.add(
            [said(f"r{index}", number(100.0), inputs=inputs)], [said(f"r{index}", number(100.0 + index), "mirror")]
        )
    found = copies.compared
    assert (found.pairs, found.disagreed, len(found.worst)) == (20, 9, WORST)
    assert [one.request_id for one in found.worst] == ["r19", "r18", "r17", "r16", "r15"]
    assert found.worst[0].sentence() == "request r19: price[0] is 119.0, stable says 100.0, for x = [4.0]"
    copies.add([said("l", label("cat"))], [said("l", label("dog"), "mirror")])
    assert copies.compared.worst[0].sentence() == "request l: label[0] is 'dog', stable says 'cat'"


def pairs(disagreed: int, all_of_them: int) -> Compared:
    return Compared(pairs=all_of_them, disagreed=disagreed)


def test_disagreement_beyond_the_margin_holds_or_fails_and_says_what_it_could_have_missed() -> None:
    each = Arm(1000, slow=50, usual=500, timed=1000)
    evidence, rules = Evidence().add(Window(0.0, each, each, split=Split.PAIRS)), Rules()
    good = judge(evidence, rules, min_requests=500, beside=(disagreements(pairs(30, 1000), rules),))
    assert good.outcome is Outcome.PASS
    assert good.findings[-1].sentence().startswith("disagreements: canary 30 of 1000; evidence")
    assert good.findings[-1].missed_rate is not None and good.findings[-1].missed_rate <= 0.075
    bad = judge(evidence, rules, min_requests=500, beside=(disagreements(pairs(150, 1000), rules),))
    assert (bad.outcome, bad.hold) == (Outcome.INCONCLUSIVE, True)
    assert "a person decides: disagreements: canary 150 of 1000" in bad.reason
    strict = Rules(class_shift_fails=True)
    assert judge(evidence, strict, min_requests=500, beside=bad.findings[-1:]).outcome is Outcome.FAIL
    few = disagreements(pairs(6, 20), rules)
    assert not few.alarmed, "30 % of 20 pairs may be chance"


def test_false_alarms_of_disagreement_are_rare_at_the_margin_itself() -> None:
    from random import Random

    rules, alarms = Rules(), 0
    for seed in range(200):
        rng, events = Random(seed), 0
        for count in range(1, 61):
            events += sum(rng.random() < rules.disagreement for _ in range(50))
            if disagreements(pairs(events, count * 50), rules).alarmed:
                alarms += 1
                break
    assert alarms <= 1, "each may happen in one rollout of 5,000"


# --- gathered by a watcher ------------------------------------------------------------------------------------------
SHADOW = Plan((Step(mirror=True, min_requests=50), Step(50, min_requests=50)), bake_s=3)
RING = (("INTERMODAL_RING", "1000"),)


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    try:
        yield found
    finally:
        found.close()


def begun(world: World, environment: tuple[tuple[str, str], ...] = RING) -> Rollout:
    with world.state.writer("memory", "digits", "test") as writer:
        writer.declare(Exposure())
        for index in (1, 2):
            digest = f"sha256:{index:064x}"
            stored = writer.begin(
                digest, digest, Settings(environment=environment), Rollout(0, 1 if index > 1 else None, SHADOW)
            )
            if index == 1:
                writer.intend(stored, Rollout(1, None, Plan(), phase=Phase.PROMOTED), ())
    return Rollout(2, 1, SHADOW, phase=Phase.JUDGING)


def gather(world: World, servers: Servers, rollout: Rollout, rounds: int, differ: int = 0) -> Beside:
    with world.state.writer("memory", "digits", "test") as writer:
        stored = world.state.rollout(writer.model)
        assert stored is not None
        beside = Beside(writer, stored, servers, lambda: (None, None))  # type: ignore[arg-type]
        for place in (1, 2):
            servers.answer(place, "first", [label("a")])
        for index in range(rounds):
            beside.look(rollout, Traffic(((1, 100),), 2), float(index))
            for nth in range(10):
                name = f"{id(beside)}-{index}-{nth}"
                servers.answer(1, name, [label("a")])
                servers.answer(2, name, [label("b" if nth < differ else "a")], "mirror")
        beside.look(rollout, Traffic(((1, 100),), 2), rounds + 9.0)
        return beside


PASSED = Verdict(Outcome.PASS, 0, "fine")


def test_copies_are_compared_and_survive_their_watcher(world: World) -> None:
    rollout, servers = begun(world), Servers()
    beside = gather(world, servers, rollout, 3)
    assert beside.compared.pairs == 30
    assert beside.enough(rollout, PASSED).outcome is Outcome.INCONCLUSIVE
    assert "30 predictions of copies were compared, 50 are needed" in beside.enough(rollout, PASSED).reason
    beside = gather(world, servers, rollout, 3, differ=9)
    assert (beside.compared.pairs, beside.compared.disagreed) == (60, 27)
    assert beside.enough(rollout, PASSED) == PASSED
    (finding,) = beside.findings(Rules())
    assert finding.alarmed and finding.canary_events == 27
    model = world.state.model("memory", "digits")
    assert model is not None
    stored = world.state.rollout(model)
    assert stored is not None
    kept = compared_in(world.state, stored)
    assert kept is not None and (kept.pairs, len(kept.worst)) == (60, WORST)
    both = answers_to(world.state, model, kept.worst[0].request_id)
    assert [(one.revision, one.copied, one.weight_percent) for one in both] == [(1, True, None), (2, True, None)]


def test_revisions_that_keep_no_predictions_are_judged_by_counts_and_it_is_said(world: World) -> None:
    rollout = begun(world, ())
    beside = gather(world, Servers(), rollout, 3)
    verdict = beside.enough(rollout, PASSED)
    assert verdict.outcome is Outcome.PASS
    assert verdict.reason == "fine; predictions were not compared: none are kept of revision 1 and 2"


def test_later_steps_need_no_pairs(world: World) -> None:
    rollout = begun(world)
    beside = gather(world, Servers(), rollout, 1)
    later = Rollout(2, 1, SHADOW, phase=Phase.JUDGING, step=1)
    assert beside.enough(later, PASSED) == PASSED


def test_answers_have_a_weight_only_while_nothing_moved_and_nothing_was_lost(world: World) -> None:
    rollout, servers = begun(world), Servers()
    servers.most = 10
    with world.state.writer("memory", "digits", "test") as writer:
        stored = world.state.rollout(writer.model)
        assert stored is not None
        beside = Beside(writer, stored, servers, lambda: (None, None))  # type: ignore[arg-type]
        canary, more = Traffic(((1, 90), (2, 10))), Traffic(((1, 75), (2, 25)))
        for place in (1, 2):
            servers.answer(place, "first", [label("a")])
        for at_s, traffic, name, count in [
            (0.0, canary, "unsettled", 1),
            (1.5, canary, "settled", 1),
            (2.0, canary, "straddling", 1),
            (3.0, more, "overflowing", 15),
            (9.0, more, "copied", 1),  # the look that found less than there was
            (10.0, more, "last", 1),
        ]:
            beside.look(rollout, traffic, at_s)
            for index in range(count):
                servers.answer(1, f"{name}{index}", [label("a")], "mirror" if name == "copied" else "live")
        beside.look(rollout, more, 20.0)
        found = {
            name: [one.weight_percent for one in answers_to(world.state, writer.model, name)]
            for name in ("unsettled0", "settled0", "straddling0", "overflowing14", "copied0", "last0")
        }
    assert found == {
        "unsettled0": [None],
        "settled0": [10.0],
        "straddling0": [None],
        "overflowing14": [None],
        "copied0": [],
        "last0": [25.0],
    }
