"""Golden predictions of two images side by side: for the same questions, how far apart the recorded answers are.

Takes the golden cases of both, hands on a `Predictions`. Nothing is run: the cases are what each image was recorded to
answer, and what `check` holds it to.

Rules, in order:
1. Cases belong together when their requests are equal (the id of a request aside), whatever their names. A name that
   both use for other requests is listed as such.
2. Every value counts. Deviation is measured without tolerance; whether it matters is judged with the tolerance of the
   first image's case, else of the datatype, as `check` does.
3. NaN equals NaN. What cannot be subtracted (labels, shapes, datatypes) differs or does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from intermodal.golden.cases import GoldenCase, GoldenFile
from intermodal_server.golden import Difference, compare

_SHOWN = 5


class OutputDeviation(Struct, frozen=True):
    """One output over all cases that both images have."""

    output: str
    values: int
    differing: int
    beyond: int  # of these, further apart than the tolerance
    max_absolute: float | None  # None where nothing could be subtracted
    max_relative: float | None  # of the values that are not expected to be 0


class Pair(Struct, frozen=True):
    """One value in both images."""

    case: str
    output: str
    place: tuple[int, ...]
    before: object
    after: object
    absolute: float | None
    within: bool


class Predictions(Struct, frozen=True):
    """What can be said of two sets of golden cases."""

    cases_before: int
    cases_after: int
    compared: int
    equal: int  # cases whose answers are the same to the last bit
    outputs: tuple[OutputDeviation, ...] = ()
    worst: tuple[Pair, ...] = ()
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    other_requests: tuple[str, ...] = ()  # names that stand for another request in each

    @property
    def beyond(self) -> int:
        """Values further apart than their tolerance."""
        return sum(each.beyond for each in self.outputs)


def predictions(before: GoldenFile | None, after: GoldenFile | None) -> Predictions | None:
    """Both sets side by side; None when neither image carries any."""
    if before is None and after is None:
        return None
    old = {_key(case): case for case in (before.cases if before else ())}
    new = {_key(case): case for case in (after.cases if after else ())}
    shared = [key for key in old if key in new]
    exact: list[Difference] = []
    beyond: set[tuple[str, str, tuple[int, ...], str]] = set()
    values: dict[str, int] = {}
    equal = 0
    for key in shared:
        one, other = old[key], new[key]
        found = compare(one.name, one.response, other.response, rtol=0.0, atol=0.0)
        equal += not found
        exact += found
        judged = compare(one.name, one.response, other.response, rtol=one.rtol, atol=one.atol)
        beyond |= {_place(each) for each in judged}
        for output in one.response.get("outputs", ()):
            name = str(output.get("name"))
            values[name] = values.get(name, 0) + _count(output)
    left, right = ([case for key, case in each.items() if key not in shared] for each in (old, new))
    both = {case.name for case in left} & {case.name for case in right}
    return Predictions(
        cases_before=len(old),
        cases_after=len(new),
        compared=len(shared),
        equal=equal,
        outputs=tuple(_outputs(exact, beyond, values)),
        worst=tuple(_pair(each, beyond) for each in sorted(exact, key=_rank)[:_SHOWN]),
        only_before=tuple(case.name for case in left if case.name not in both),
        only_after=tuple(case.name for case in right if case.name not in both),
        other_requests=tuple(sorted(both)),
    )


def _outputs(
    exact: Iterable[Difference], beyond: set[tuple[str, str, tuple[int, ...], str]], values: Mapping[str, int]
) -> Iterable[OutputDeviation]:
    by_output: dict[str, list[Difference]] = {name: [] for name in values}
    for each in exact:
        by_output.setdefault(each.output, []).append(each)
    for name, found in by_output.items():
        absolutes = [each.absolute for each in found if each.absolute is not None]
        relatives = [each.relative for each in found if each.relative is not None and math.isfinite(each.relative)]
        yield OutputDeviation(
            output=name,
            values=values.get(name, 0),
            differing=len(found),
            beyond=sum(_place(each) in beyond for each in found),
            max_absolute=max(absolutes, default=None),
            max_relative=max(relatives, default=None),
        )


def _pair(each: Difference, beyond: set[tuple[str, str, tuple[int, ...], str]]) -> Pair:
    return Pair(
        case=each.case,
        output=each.output,
        place=each.place,
        before=each.expected,
        after=each.actual,
        absolute=each.absolute,
        within=_place(each) not in beyond,
    )


def _rank(each: Difference) -> tuple[bool, float]:
    """What cannot be subtracted first, then the largest deviation."""
    return each.absolute is not None, -(each.absolute or 0.0)


def _place(each: Difference) -> tuple[str, str, tuple[int, ...], str]:
    return each.case, each.output, each.place, each.error


def _key(case: GoldenCase) -> str:
    request = {name: value for name, value in case.request.items() if name != "id"}
    return json.dumps(request, sort_keys=True)


def _count(output: Mapping[str, Any]) -> int:
    return math.prod(int(n) for n in output.get("shape", ()) if isinstance(n, int) and n >= 0)
