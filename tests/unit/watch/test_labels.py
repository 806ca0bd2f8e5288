"""Labels: right or wrong, counted by revision and circumstances, and evidence only where requests were divided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.worlds import World

from intermodal.errors import InputError
from intermodal.rooms.deploy import answers
from intermodal.rooms.deploy.answers import Answer, Tally, keep_answers, keep_labels, tallies
from intermodal.rooms.deploy.revision import Exposure, Settings
from intermodal.rooms.deploy.rollout import Plan, Rollout
from intermodal.rooms.deploy.state import Model
from intermodal.rooms.deploy.verdict import Outcome
from intermodal.rooms.watch.counts import Arm, Evidence, Window
from intermodal.rooms.watch.feedback_file import read_labels
from intermodal.rooms.watch.judge import Rules, judge
from intermodal.rooms.watch.labels import is_right, wrong_answers


def tensor(datatype: str, data: list[Any], shape: list[int] | None = None, name: str = "y") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


@pytest.mark.parametrize(
    ("output", "label", "within", "right"),
    [
        (tensor("BYTES", ["cat"]), "cat", None, True),
        (tensor("BYTES", ["cat"]), "dog", None, False),
        (tensor("INT64", [7]), "7", None, True),
        (tensor("INT64", [7]), 7.0, None, True),
        (tensor("INT64", [7]), "seven", None, False),
        (tensor("BOOL", [True]), "TRUE", None, True),
        (tensor("BOOL", [True]), 0, None, False),
        (tensor("FP32", [0.1, 0.7, 0.2], [1, 3]), 1, None, True),
        (tensor("FP32", [0.1, 0.7, 0.2], [1, 3]), 2, None, False),
        (tensor("FP64", [9.7]), 10, 0.5, True),
        (tensor("FP64", [9.4]), "10", 0.5, False),
        (tensor("BYTES", ["a", "b"]), ["a", "b"], None, True),
        (tensor("BYTES", ["a", "b"]), ["a", "c"], None, False),
    ],
)
def test_what_is_right(output: dict[str, Any], label: Any, within: float | None, right: bool) -> None:
    assert is_right(json.dumps([output]), label, within=within) is right


def test_classes_are_meant_before_numbers_unless_an_output_is_named() -> None:
    both = json.dumps([tensor("FP64", [0.3], name="score"), tensor("BYTES", ["cat"], name="label")])
    assert is_right(both, "cat")
    assert is_right(both, 0.3, output="score", within=0)
    for label, more, words in [
        (0.3, {"output": "score"}, "a label alone cannot say"),
        ("cat", {"output": "nothing"}, "no output 'nothing'"),
        (["cat", "dog"], {}, "a label for each row"),
    ]:
        with pytest.raises(InputError, match=words):
            is_right(both, label, **more)  # type: ignore[arg-type]


def test_files_of_labels(tmp_path: Path) -> None:
    lines, table = tmp_path / "l.jsonl", tmp_path / "l.csv"
    lines.write_text('{"request_id": "a", "label": 3}\n\n{"request_id": "b", "label": ["x", "y"]}\n')
    assert read_labels(lines) == [("a", 3), ("b", ["x", "y"])]
    table.write_text("when,request_id,label\n1,a,3\n2,b,x\n")
    assert read_labels(table) == [("a", "3"), ("b", "x")]
    lines.write_text('{"request_id": 7, "label": 3}\nno\n{"label": 1}\n{"request_id": "a", "label": null}\n')
    with pytest.raises(InputError, match="lines that are no labels") as caught:
        read_labels(lines)
    assert [line.split(":")[0] for line in caught.value.found] == ["line 1", "line 2", "line 3", "line 4"]
    table.write_text("id,label\n1,2\n")
    with pytest.raises(InputError):
        read_labels(table)
    with pytest.raises(InputError, match="cannot read"):
        read_labels(tmp_path / "none")


def counted(revision: int, labelled: int, wrong: int, weight: float | None = 10.0, alone: int | None = None) -> Tally:
    return Tally(revision, 1, weight, alone is not None, labelled, wrong, alone or 0)


def test_wrong_answers_send_back_what_is_beyond_the_margin_and_nothing_else() -> None:
    def finding(*found: Tally) -> Any:
        return wrong_answers(found, stable=1, canary=2, rules=Rules())

    evidence = Evidence().add(Window(10.0, Arm(9000, usual=4500, timed=9000), Arm(1000, usual=500, timed=1000)))
    same = finding(counted(1, 900, 90), counted(2, 100, 10))
    assert judge(evidence, Rules(), min_requests=100, beside=(same,)).outcome is Outcome.PASS
    worse = finding(counted(1, 900, 90), counted(2, 100, 45))
    verdict = judge(evidence, Rules(), min_requests=100, beside=(worse,))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason.startswith("beyond the margin, wrong answers: canary 45 of 100, stable 90 of 900")
    unknown = finding(counted(1, 900, 90, None), counted(2, 100, 45, None))
    assert unknown is None, "answers without a known weight are no evidence"
    full = finding(counted(1, 900, 90, 100.0), counted(2, 100, 45, 100.0))
    assert full is None


def test_of_copies_only_those_count_where_one_alone_was_wrong() -> None:
    same = wrong_answers(
        [counted(1, 500, 300, None, 10), counted(2, 500, 300, None, 10)], stable=1, canary=2, rules=Rules()
    )
    worse = wrong_answers(
        [counted(1, 500, 20, None, 5), counted(2, 500, 75, None, 60)], stable=1, canary=2, rules=Rules()
    )
    assert same is not None and worse is not None
    assert not same.alarmed and worse.alarmed


# --- kept in the state file -----------------------------------------------------------------------------------------
@pytest.fixture
def model() -> Iterator[tuple[World, Model, int]]:
    world = World()
    try:
        with world.state.writer("memory", "digits", "test") as writer:
            found = writer.declare(Exposure())
            stored = writer.begin(f"sha256:{1:064x}", f"sha256:{1:064x}", Settings(), Rollout(0, None, Plan()))
            yield world, found, stored.id
    finally:
        world.close()


def test_labels_are_counted_by_revision_weight_and_copies(model: tuple[World, Model, int]) -> None:
    world, found, rollout = model
    first = Answer("a", 1, "[]", rollout, 10.0)
    keep_answers(world.state, found, [first, Answer("a", 1, "other", rollout, 50.0), Answer("big", 1, "x" * 5000)])
    assert answers.answers_to(world.state, found, "a") == (first,), "the first answer stays"
    assert answers.answers_to(world.state, found, "big") == ()
    judged = [(Answer(f"r{n}", 1 + n % 2, "[]", rollout, 10.0), n >= 4) for n in range(10)]
    for name, stable_right, canary_right in [("p", True, False), ("q", False, False), ("s", True, True)]:
        judged.append((Answer(name, 1, "[]", rollout, None, copied=True), stable_right))
        judged.append((Answer(name, 2, "[]", rollout, None, copied=True), canary_right))
    keep_labels(world.state, found, judged)
    assert tallies(world.state, found, rollout) == (
        Tally(1, rollout, None, True, 3, 1, 0),
        Tally(1, rollout, 10.0, False, 5, 2, 0),
        Tally(2, rollout, None, True, 3, 2, 1),
        Tally(2, rollout, 10.0, False, 5, 2, 0),
    )
    assert tallies(world.state, found, rollout + 1) == ()
    keep_labels(world.state, found, [(Answer("r0", 1, "[]", rollout, 10.0), True)])
    assert tallies(world.state, found, rollout)[1].wrong == 1, "a later label replaces an earlier one"


def test_what_is_kept_is_bounded(model: tuple[World, Model, int], monkeypatch: pytest.MonkeyPatch) -> None:
    world, found, rollout = model
    monkeypatch.setattr(answers, "KEPT", 5)
    keep_answers(world.state, found, [Answer(f"r{n}", 1, "[]", rollout) for n in range(20)])
    left = [n for n in range(20) if answers.answers_to(world.state, found, f"r{n}")]
    assert left == [15, 16, 17, 18, 19]
    answers.forget_answers(world.state, found)
    assert answers.answers_to(world.state, found, "r19") == ()
