"""What a start finds out about a model, and what is decided from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from intermodal_server.contract import ModelSettings, ServeSettings, Signature, TensorSpec
from intermodal_server.front.execute.decide import decide, decide_batching, decide_mode
from intermodal_server.tensors import Tensor, decode, encode
from intermodal_server.worker.measure import measure
from intermodal_server.worker.measured import Measured

NUMBERS = Signature((TensorSpec("x", "FP64", (-1, 2)),), ())


def settings(signature: Signature = NUMBERS, backend: str = "sklearn", **serve: Any) -> ModelSettings:
    return ModelSettings("m", "1", backend, "joblib", "", signature, call="named", serve=ServeSettings(**serve))


def case(*rows: tuple[float, float]) -> dict[str, Any]:
    data = [value for row in rows for value in row]
    return {"request": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(rows), 2], "data": data}]}}


CASES = [case((1, 2)), case((3, 4)), case((5, 6), (7, 8))]


class Sums:
    """One sum for each row, plus `odd` of all rows together."""

    def __init__(self, odd: Any = lambda rows: [0.0] * len(rows), pace: Any = lambda count: None) -> None:
        self.odd = odd
        self.pace = pace
        self.seen: list[list[tuple[float, ...]]] = []

    def load(self, load: Any) -> None:
        raise NotImplementedError

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (x,) = tensors
        values = decode(x.data, x.datatype, "x")
        width = len(values) // x.shape[0]
        rows = [tuple(values[i : i + width]) for i in range(0, len(values), width)]
        self.seen.append(rows)
        self.pace(len(rows))
        found = [float(sum(row)) + extra for row, extra in zip(rows, self.odd(rows), strict=False)]
        return [Tensor("y", "FP64", (len(found),), encode(found, "FP64", "y"))]


def found(model: Sums, cases: Sequence[dict[str, Any]] = CASES, mode: bool = False, **serve: Any) -> Measured:
    return measure(model, settings(**serve), cases, load_s=0.5, mode=mode)


def test_golden_rows_are_timed_and_tried_together_in_more_than_one_order() -> None:
    model = Sums()
    measured = found(model)
    assert measured.same and measured.golden and not measured.problem and measured.load_s == 0.5
    assert 0 < measured.typical_1_s <= measured.predict_1_s and 32 <= measured.n <= 35
    together = [rows for rows in model.seen if len(rows) == 4]
    assert together[0] == [(1, 2), (3, 4), (5, 6), (7, 8)] and together[1] == [(5, 6), (7, 8), (3, 4), (1, 2)]


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (lambda rows: [float(len(rows))] * len(rows), "not answered as they are alone"),  # depends on the company
        (lambda rows: [float(place) for place in range(len(rows))], "not answered as they are alone"),  # on the place
        (lambda rows: [0.0], "one row for each input row"),
        (lambda rows: [1e-3 * (rows[0] != (1, 2))] * len(rows), "not answered as they are alone"),  # on who is first
    ],
)
def test_a_model_whose_rows_are_not_their_own_is_not_batched(odd: Any, problem: str) -> None:
    measured = found(Sums(odd))
    assert not measured.same and problem in measured.problem
    assert decide_batching(ServeSettings(), measured) == (1, f"off: {measured.problem}")


def test_a_difference_within_the_tolerance_is_none() -> None:
    measured = found(Sums(lambda rows: [1e-12 * len(rows)] * len(rows)))
    assert measured.same


def test_a_model_that_refuses_company_is_not_batched() -> None:
    def raises(count: int) -> None:
        if count > 2:
            raise ValueError("secret")

    assert found(Sums(pace=raises)).problem == "rows together fail: ValueError"


def test_whatever_the_model_raises_the_start_goes_on() -> None:
    def exits(count: int) -> None:
        raise SystemExit(3)

    assert found(Sums(pace=exits)).problem == "the trial failed: SystemExit"


def test_rows_are_made_up_only_for_pure_functions_with_a_known_shape() -> None:
    model = Sums()
    measured = found(model, [])
    assert measured.same and not measured.golden and len({row for rows in model.seen for row in rows}) >= 3
    for open_signature in (
        Signature((TensorSpec("x", "FP64", (-1, -1)),), ()),
        Signature((TensorSpec("x", "BYTES", (-1, 2)),), ()),
        Signature((TensorSpec("x", "FP64", (-1, 2), assumed=True),), ()),
        Signature((), ()),
    ):
        unknown = measure(Sums(), settings(open_signature), [], load_s=0, mode=True)
        assert "no golden cases" in unknown.problem and not unknown.same and not unknown.predict_1_s
    own = Sums()
    program = measure(own, settings(backend="predictor"), [], load_s=0, mode=True)
    assert "not made up for a program" in program.problem and own.seen == []


def test_one_row_is_too_few_to_compare_and_one_request_of_several_is_taken_apart() -> None:
    assert found(Sums(), [case((1, 2))]).problem == "fewer than two rows that could go together are known"
    assert found(Sums(), [case((1, 2), (3, 4))]).same


def test_nothing_is_asked_when_nothing_hangs_on_it() -> None:
    model = Sums()
    assert found(model, max_batch_rows=1) == Measured(load_s=0.5)
    assert model.seen == []


def test_a_slow_model_is_asked_as_seldom_as_can_be() -> None:
    model = Sums(pace=lambda count: time.sleep(0.12))
    measured = found(model, [case((i, i)) for i in range(16)])
    assert measured.same and measured.n == 32 and len(model.seen) <= 5


@pytest.mark.parametrize(
    ("pace", "releases"), [(lambda n: time.sleep(0.005), True), (lambda n: sum(range(400_000)), False)]
)
def test_who_may_run_beside_the_model_is_counted(pace: Any, releases: bool) -> None:
    tries = 5 if releases else 1  # a starved machine can hide that the lock was released, never that it was held
    assert any(found(Sums(pace=pace), mode=True).releases_gil is releases for _ in range(tries))
    assert found(Sums(pace=pace)).releases_gil is None


def test_measurements_survive_the_way_to_the_front() -> None:
    measured = found(Sums(), mode=True)
    assert Measured.from_json(measured.as_json()) == measured
    assert Measured.from_json(None) is None and Measured.from_json({"other": 1}) is None


MEASURED = Measured(0.1, 0.0001, 0.0001, 0.0002, 32, same=True, golden=True)


@pytest.mark.parametrize(
    ("serve", "forced", "measured", "mode"),
    [
        ({}, "", {}, "inline"),
        ({}, "workers = 2", {}, "workers"),
        ({"mode": "inline"}, "workers = 2", {}, "workers"),
        ({"mode": "inline"}, "", {"predict_1_s": 5.0}, "inline"),
        ({"mode": "thread"}, "", {}, "thread"),
        ({"mode": "workers"}, "", {}, "workers"),
        ({}, "", None, "workers"),
        ({}, "", {"predict_1_s": 0.0}, "workers"),
        ({}, "", {"predict_1_s": 0.00019}, "inline"),
        ({}, "", {"predict_1_s": 0.0002}, "thread"),
        ({}, "", {"predict_1_s": 0.0019, "releases_gil": False}, "thread"),
        ({}, "", {"predict_1_s": 0.002, "releases_gil": False}, "workers"),
        ({}, "", {"predict_1_s": 0.002, "releases_gil": None}, "workers"),
        ({}, "", {"predict_1_s": 2.0, "releases_gil": True}, "thread"),
        ({}, "", {"predict_1_s": 2.0, "releases_gil": True, "load_s": 0.6}, "workers"),
        ({}, "", {"predict_1_s": 0.0001, "load_s": 2.9}, "inline"),
        ({}, "", {"predict_1_s": 0.0001, "load_s": 3.1}, "workers"),
        ({"mode": "thread"}, "", {"load_s": 3.1}, "thread"),
    ],
)
def test_the_mode(serve: dict[str, Any], forced: str, measured: dict[str, Any] | None, mode: str) -> None:
    value = None if measured is None else replace(MEASURED, **measured)
    chosen, reason = decide_mode(ServeSettings(**serve), forced, value)
    assert chosen == mode and reason
    assert decide(ServeSettings(**serve), chosen, reason, value).mode == mode


@pytest.mark.parametrize(
    ("serve", "measured", "rows", "why"),
    [
        ({}, {}, 256, "on: golden rows answer together as alone, and 32 take 2.0 times as long as one"),
        ({}, {"golden": False}, 256, "on: made-up rows"),
        ({"max_batch_rows": 1}, {}, 1, "off: max_batch_rows = 1"),
        ({}, {"same": False, "problem": "so"}, 1, "off: so"),
        ({}, {"predict_n_s": 0.00079}, 256, "on"),
        ({}, {"predict_n_s": 0.0008}, 1, "off: 32 rows take 8.0 times as long as one, so it does not pay"),
        ({"max_batch_rows": 2}, {"n": 2, "predict_n_s": 0.00012}, 2, "on"),
        ({"max_batch_rows": 2}, {"n": 2, "predict_n_s": 0.00013}, 1, "off"),
        ({"timeout_s": 4.0}, {"typical_1_s": 0.5, "predict_n_s": 1.0}, 32, "on"),  # 16 ms a row, 0.5 s to spare
        ({"timeout_s": 4.0}, {"typical_1_s": 1.5, "predict_n_s": 1.5}, 1, "off: one row takes more than a quarter"),
    ],
)
def test_the_batching(serve: dict[str, Any], measured: dict[str, Any], rows: int, why: str) -> None:
    limit, text = decide_batching(ServeSettings(**serve), replace(MEASURED, **measured))
    assert limit == rows and text.startswith(why)


def test_without_measurements_nothing_goes_together() -> None:
    assert decide_batching(ServeSettings(), None) == (1, "off: nothing was measured")
