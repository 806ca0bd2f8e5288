"""What answers look like, and that a batch in another form is none."""

from __future__ import annotations

from typing import Any

import pytest

from intermodal_server.contract import Signature, TensorSpec
from intermodal_server.front.execute.forms import Forms
from intermodal_server.tensors import Tensor


def tensor(name: str, datatype: str, *shape: int) -> Tensor:
    return Tensor(name, datatype, shape, b"")


def case(*outputs: tuple[str, str, list[int]], **request: Any) -> dict[str, Any]:
    listed = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs]
    return {"request": {"inputs": [], **request}, "response": {"outputs": listed}}


NOTHING = Signature((), ())
DECLARED = Signature((), (TensorSpec("y", "FP64", (-1, 3)),))
GOLDEN = [case(("y", "FP32", [1, 3]), ("z", "BYTES", [1])), case(("y", "FP32", [2, 3]), ("z", "BYTES", [2]))]
RIGHT = [tensor("y", "FP32", 9, 3), tensor("z", "BYTES", 9)]


@pytest.mark.parametrize(
    ("outputs", "fits"),
    [
        (RIGHT, True),
        (RIGHT[::-1], True),
        ([tensor("y", "FP64", 9, 3), RIGHT[1]], False),
        ([tensor("y", "FP32", 9, 4), RIGHT[1]], False),
        ([tensor("y", "FP32", 9), RIGHT[1]], False),
        (RIGHT[:1], False),
        ([*RIGHT, tensor("more", "FP32", 9)], False),
        ([], False),
    ],
)
def test_golden_responses_say_what_fits(outputs: list[Tensor], fits: bool) -> None:
    forms = Forms.of(GOLDEN, DECLARED)
    assert forms.fit(outputs) is fits
    assert forms.fit(outputs) is fits  # what was seen is remembered


def test_datatypes_and_lengths_may_differ_where_golden_responses_differ() -> None:
    forms = Forms.of([case(("y", "FP64", [1, 3])), case(("y", "INT64", [1, 5])), case(("y", "INT64", [1, 5]))], NOTHING)
    assert forms.fit([tensor("y", "INT64", 4, 7)])
    assert not forms.fit([tensor("y", "BYTES", 4, 3)])


def test_a_golden_request_that_chose_leaves_room_for_others() -> None:
    forms = Forms.of([case(("y", "FP64", [1]), outputs=[{"name": "y"}])], NOTHING)
    assert forms.fit([tensor("y", "FP64", 4), tensor("z", "BYTES", 4)])
    assert not forms.fit([tensor("z", "BYTES", 4)])


def test_without_golden_responses_the_signature_counts_and_without_that_everything_fits() -> None:
    forms = Forms.of([], DECLARED)
    assert forms.fit([tensor("y", "FP64", 4, 3)])
    assert not forms.fit([tensor("y", "FP64", 4, 2)])
    assert not forms.fit([tensor("y", "INT64", 4, 3)])
    assert Forms.of([], NOTHING).fit([tensor("whatever", "BYTES", 4, 2)])
