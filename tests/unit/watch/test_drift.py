"""Drift after promotion: told when predictions moved, silent when they did not, whoever restarts meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import msgspec
import pytest
from support.worlds import World

from intermodal.cli.beside import drift_document, drift_rows
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.target import ReplicaReport
from intermodal.rooms.watch.drift import Drift, begin, look
from intermodal.rooms.watch.drift_kept import begin_drift, drift_now, look_and_keep, stored_drift


def report(
    classes: Mapping[str, int] | None = None,
    numbers: list[tuple[float, float, int]] | None = None,
    replica: str = "0-a",
) -> ReplicaReport:
    """A replica that has predicted these so far."""
    total = sum((classes or {}).values()) or sum(count for _, _, count in numbers or ())
    sketch: dict[str, Any] = {"rows": total, "missing": 0, "classes": dict(classes or {}), "other": 0}
    if numbers is not None:
        sketch["numbers"] = {"count": total, "nan": 0, "buckets": [list(one) for one in numbers]}
    counts = {"codes": {"200": total}, "rows": total, "duration_s": {"sum": 1.0, "counts": [total, 0]}}
    output = {"name": "y", "datatype": "BYTES", "traffic": {"live": sketch}}
    document = {"requests": {"live": counts}, "duration_edges_s": [1.0], "outputs": [output]}
    return ReplicaReport(replica, document)


def test_a_class_that_grows_is_told_with_its_numbers() -> None:
    then = begin([report({"cat": 500, "dog": 500})])
    now = look(then, [report({"cat": 900, "dog": 600})])
    assert now.warns, now.shifts
    (shift,) = now.shifts
    assert (shift.class_name, shift.predictions) in (("cat", 500), ("dog", 500))
    assert shift.sentence().startswith(f"y: '{shift.class_name}' is")
    again = look(now, [report({"cat": 1150, "dog": 850})])
    assert not again.warns, "each comparison is about its own stretch of time"


def test_new_and_lost_classes_are_shifts() -> None:
    then = begin([report({"cat": 500, "dog": 500})])
    assert look(then, [report({"cat": 800, "dog": 800, "cow": 400})]).warns
    assert look(then, [report({"cat": 1100, "dog": 500})]).warns


def test_too_few_wait_and_add_up() -> None:
    now = begin([report({"cat": 500, "dog": 500})])
    for step in range(1, 5):
        now = look(now, [report({"cat": 500 + 100 * step, "dog": 500})])
        assert (now.shifts, now.waiting) == ((), 100 * step)
    now = look(now, [report({"cat": 1000, "dog": 500})])
    assert now.warns and now.waiting == 0


def test_numbers_are_compared_in_tenths() -> None:
    flat = [(float(n), n + 1.0, 50) for n in range(20)]
    then = begin([report(numbers=flat)])
    same = [(low, high, 2 * count) for low, high, count in flat]
    moved = [(low, high, count + (100 if low >= 10 else 0)) for low, high, count in flat]
    assert not look(then, [report(numbers=same)]).warns
    assert look(then, [report(numbers=moved)]).warns


def test_processes_that_begin_anew_count_from_nothing() -> None:
    then = begin([report({"cat": 500, "dog": 500}), report({"cat": 500, "dog": 500}, replica="1-a")])
    now = look(then, [report({"cat": 510, "dog": 510}, replica="0-a"), report({"cat": 250, "dog": 245}, replica="1-b")])
    (shift,) = now.shifts
    assert shift.predictions == 515 and not shift.warns


def test_little_traffic_before_promotion_is_made_up_for_later() -> None:
    then = begin([report({"cat": 10, "dog": 10})])
    assert then.outputs == () and drift_rows(then) == [("drift", "too few predictions yet to compare with")]
    later = look(then, [report({"cat": 300, "dog": 300})])
    assert later.outputs and not later.shifts
    assert look(later, [report({"cat": 1300, "dog": 300})]).warns


def test_chance_alone_warns_rarely() -> None:
    rng, warned = Random(1), 0
    shares = [0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02]
    for _ in range(400):
        counts = [{str(index): 0 for index in range(8)} for _ in range(2)]
        for one, size in zip(counts, (200, 500), strict=True):
            for label in rng.choices(list(one), shares, k=size):
                one[label] += 1
        total = {name: counts[0][name] + counts[1][name] for name in counts[0]}
        warned += look(begin([report(counts[0])]), [report(total)]).warns
    assert warned == 0


class Place:
    """A target whose servers say what they are told to."""

    def __init__(self, *reports: ReplicaReport) -> None:
        self.now = reports

    def reports(self, revision: int) -> tuple[ReplicaReport, ...]:
        return self.now


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    try:
        yield found
    finally:
        found.close()


def test_a_change_is_logged_and_told_once_and_looking_stores_nothing(world: World) -> None:
    with world.state.writer("memory", "digits", "test") as writer:
        model = writer.declare(Exposure())
    place: Any = Place(report({"cat": 500, "dog": 500}))
    begin_drift(world.state, model, 1, place)
    place.now = (report({"cat": 1500, "dog": 500}),)
    begin_drift(world.state, model, 1, place)
    assert drift_now(world.state, model, 1, place).warns, "what it is compared with stays"
    assert not stored_drift(world.state, model, 1).warns
    told: list[Mapping[str, Any]] = []
    for counts in ({"cat": 1500, "dog": 500}, {"cat": 2500, "dog": 500}, {"cat": 2800, "dog": 800}):
        place.now = (report(counts),)
        look_and_keep(world.state, model, 1, place, told.append)
    assert [one["what"] for one in told] == ["drift", "drift is over"]
    assert "of 1000 predictions" in told[0]["moved"][0]
    assert [line.body["what"] for line in world.state.log()] == ["drift", "drift is over"]
    assert world.state.verify_log() == ""
    document = drift_document(stored_drift(world.state, model, 1))
    assert document["warns"] is False and msgspec.json.encode(document)
    assert isinstance(stored_drift(world.state, model, 2), Drift)
