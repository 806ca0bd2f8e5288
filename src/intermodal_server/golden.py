"""Compare two answers of a model: the recorded one and the one given now.

Takes V2 response bodies in JSON form, hands on `Difference`s and lines that people can read. Standard library only,
because `intermodal` imports it too.

Rules, in order:
1. Every output of the recorded answer must be there, and no other.
2. Datatype and shape must be equal; if not, values are not compared.
3. Integers, booleans and strings must be equal. Floats may differ by `atol + rtol * |expected|`; where no tolerance
   is given, that of the datatype counts. NaN is written as null and equals null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from intermodal_server.contract import FLOAT_DATATYPES, Signature

TOLERANCES: Mapping[str, tuple[float, float]] = {  # datatype -> (rtol, atol)
    "FP64": (1e-6, 1e-9),
    "FP32": (1e-3, 1e-5),
    "FP16": (1e-2, 1e-3),
}


@dataclass(frozen=True)
class Difference:
    """One place where two answers are not the same.

    `error` is "value", "shape", "datatype", "missing", "extra" or "refused"; `place` is the index into the output's
    shape, empty unless `error` is "value".
    """

    case: str
    output: str
    place: tuple[int, ...]
    expected: Any
    actual: Any
    error: str = "value"

    @property
    def absolute(self) -> float | None:
        """|actual - expected|; None where that means nothing (strings, NaN, shapes)."""
        if self.error != "value" or not _is_number(self.expected) or not _is_number(self.actual):
            return None
        return abs(float(self.actual) - float(self.expected))

    @property
    def relative(self) -> float | None:
        """The absolute deviation in units of |expected|; infinite when 0 was expected."""
        absolute = self.absolute
        if absolute is None:
            return None
        expected = abs(float(self.expected))
        return absolute / expected if expected else math.inf


@dataclass(frozen=True)
class Summary:
    """All differences of one output over all cases: how many, and the worst."""

    output: str
    count: int
    worst: Difference


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flat(data: Any) -> list[Any]:
    values = list(data) if isinstance(data, (list, tuple)) else [data]
    while values and all(isinstance(value, (list, tuple)) for value in values):
        values = list(chain.from_iterable(values))
    return values


def _place(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    place: list[int] = []
    for length in reversed(list(shape)):
        index, remainder = divmod(index, length)
        place.append(remainder)
    return tuple(reversed(place))


def _same_float(expected: Any, actual: Any, rtol: float, atol: float) -> bool:
    nothing = [value is None or (_is_number(value) and value != value) for value in (expected, actual)]
    if any(nothing):
        return all(nothing)
    if not _is_number(expected) or not _is_number(actual):
        return False
    if expected == actual:  # infinities too
        return True
    if math.isinf(expected) or math.isinf(actual):
        return False
    return bool(abs(actual - expected) <= atol + rtol * abs(expected))


def _same_exactly(expected: Any, actual: Any) -> bool:
    return type(expected) is type(actual) and bool(expected == actual)


def _compare_output(
    case: str, expected: Mapping[str, Any], actual: Mapping[str, Any], rtol: float | None, atol: float | None
) -> Iterable[Difference]:
    name, datatype = str(expected.get("name")), expected.get("datatype")
    if datatype != actual.get("datatype"):
        yield Difference(case, name, (), datatype, actual.get("datatype"), "datatype")
        return
    shape = list(expected.get("shape", ()))
    values, others = _flat(expected.get("data", ())), _flat(actual.get("data", ()))
    if shape != list(actual.get("shape", ())) or len(values) != len(others):
        lengths = len(values) == len(others) or shape != list(actual.get("shape", ()))
        yield Difference(
            case,
            name,
            (),
            shape if lengths else f"{len(values)} values",
            list(actual.get("shape", ())) if lengths else f"{len(others)} values",
            "shape",
        )
        return
    default = TOLERANCES.get(str(datatype), (0.0, 0.0))
    rtol, atol = default[0] if rtol is None else rtol, default[1] if atol is None else atol
    floats = datatype in FLOAT_DATATYPES
    for index, (value, other) in enumerate(zip(values, others)):
        same = _same_float(value, other, rtol, atol) if floats else _same_exactly(value, other)
        if not same:
            yield Difference(case, name, _place(index, shape), value, other)


def compare(
    case_name: str,
    expected_response: Mapping[str, Any],
    actual_response: Mapping[str, Any],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    signature: Signature | None = None,
) -> list[Difference]:
    """Where the answer of now is not the recorded one; empty when they agree.

    Args:
        case_name: stands in every difference.
        expected_response: the recorded V2 body, in JSON form.
        actual_response: the body given now, or `{"error": text}`.
        rtol: relative tolerance of floats; None takes that of the datatype.
        atol: absolute tolerance of floats; None takes that of the datatype.
        signature: when given, outputs that it lists must have its datatype.
    """
    if "outputs" not in actual_response:
        return [Difference(case_name, "", (), "an answer", actual_response.get("error", "no outputs"), "refused")]
    expected = {str(output.get("name")): output for output in expected_response.get("outputs", ())}
    actual = {str(output.get("name")): output for output in actual_response["outputs"]}
    differences: list[Difference] = []
    for name, output in expected.items():
        if name not in actual:
            differences.append(Difference(case_name, name, (), "present", "absent", "missing"))
        else:
            differences.extend(_compare_output(case_name, output, actual[name], rtol, atol))
    differences.extend(
        Difference(case_name, name, (), "absent", "present", "extra") for name in actual if name not in expected
    )
    for spec in signature.outputs if signature else ():
        found = actual.get(spec.name, {}).get("datatype", spec.datatype)
        known = any(d.output == spec.name and d.error == "datatype" for d in differences)
        if found != spec.datatype and not spec.assumed and not known:
            differences.append(Difference(case_name, spec.name, (), spec.datatype, found, "datatype"))
    return differences


def _badness(difference: Difference) -> tuple[int, float, float]:
    if difference.error != "value":
        return (2, 0.0, 0.0)
    absolute, relative = difference.absolute, difference.relative
    if absolute is None or relative is None:
        return (1, 0.0, 0.0)
    return (0, absolute, relative)


def summarize(differences: Iterable[Difference]) -> list[Summary]:
    """One summary for each output, in order of first appearance."""
    by_output: dict[str, list[Difference]] = {}
    for difference in differences:
        by_output.setdefault(difference.output, []).append(difference)
    return [Summary(name, len(found), max(found, key=_badness)) for name, found in by_output.items()]


def describe_one(difference: Difference) -> str:
    """One line: case, output, place, expected, actual, and how far apart they are."""
    where = f"case {difference.case!r}"
    if difference.error == "refused":
        return f"{where}: the model did not answer: {difference.actual}"
    where += f", output {difference.output!r}"
    if difference.error in ("missing", "extra"):
        return f"{where}: {'is missing' if difference.error == 'missing' else 'was not recorded'}"
    if difference.error in ("datatype", "shape"):
        return f"{where}: {difference.error} expected {difference.expected}, got {difference.actual}"
    where += f" at {list(difference.place)}"
    text = f"{where}: expected {_show(difference.expected)}, got {_show(difference.actual)}"
    absolute, relative = difference.absolute, difference.relative
    if absolute is not None and relative is not None:
        text += f" (off by {absolute:.3g}, relative {relative:.3g})"
    return text


def _show(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def describe(differences: Sequence[Difference], limit: int = 10) -> list[str]:
    """Lines for people: the first `limit` differences, then the worst of each output that has more.

    Args:
        differences: what `compare` found, of one case or of many.
        limit: how many are written out.
    """
    lines = [describe_one(difference) for difference in differences[:limit]]
    if len(differences) > limit:
        lines.append(f"… and {len(differences) - limit} more")
        for summary in summarize(differences):
            lines.append(f"worst of {summary.count} in {summary.output!r}: {describe_one(summary.worst)}")
    return lines
