"""Sketches of numbers: exact counts, bounded buckets, bounded errors, and sketches that can be merged."""

from __future__ import annotations

import array
import math
import struct
from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal_server.front.observe import buckets
from intermodal_server.front.observe.buckets import MAX_BUCKETS, Numbers


def sketch(values: list[float]) -> Numbers:
    found = Numbers()
    found.add(array.array("d", values))
    return found


@given(st.lists(st.lists(st.floats(width=64), max_size=30), max_size=5))
@settings(deadline=None)
def test_every_number_is_counted_once_and_lies_in_its_bucket(parts: list[list[float]]) -> None:
    found = Numbers()
    for part in parts:
        found.add(array.array("d", part))
    values = [value for part in parts for value in part]
    finite = [value for value in values if math.isfinite(value)]
    assert found.nan == sum(map(math.isnan, values))
    assert found.positive_infinity == values.count(math.inf)
    assert found.negative_infinity == values.count(-math.inf)
    counted = found.buckets()
    assert sum(count for _, _, count in counted) == found.count == len(finite)
    assert all(a[1] <= b[0] for a, b in pairwise(counted))
    for lower, upper, count in counted:
        near = sum(lower <= value < upper if lower >= 0 else lower < value <= upper for value in finite)
        if lower < 0 < upper:
            near = sum(lower < value < upper for value in finite)
        assert near == count or upper == 1.7976931348623157e308 or lower == -1.7976931348623157e308
    if finite:
        assert (found.smallest, found.largest) == (min(finite), max(finite))


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=200), st.floats(0, 1))
@settings(deadline=None)
def test_quantiles_are_off_by_less_than_the_stated_share(values: list[float], share: float) -> None:
    found = sketch(values)
    ((_, quantile),) = found.quantiles([share])
    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    assert found.bits == buckets.FIRST_BITS
    assert abs(quantile - exact) <= exact * 2 ** -(found.bits + 1) * 1.000001


def test_more_buckets_than_may_be_cost_a_bit_and_no_count() -> None:
    values = [math.exp(power / 100) for power in range(-5000, 5000)]
    found = sketch(values)
    assert found.bits < buckets.FIRST_BITS
    assert len(found.counts) <= MAX_BUCKETS
    assert found.count == len(values)


def test_all_bit_patterns_stay_within_bounds() -> None:
    patterns = [exponent << 52 | sign << 63 for exponent in range(0x7FF) for sign in (0, 1)]
    found = sketch([struct.unpack("<d", struct.pack("<Q", pattern))[0] for pattern in patterns])
    assert found.bits < 0
    assert len(found.counts) <= MAX_BUCKETS
    assert found.count == len(patterns)


def test_coarse_and_fine_sketches_can_be_merged_by_edges_alone() -> None:
    """What a reader does that knows nothing but the document: every fine bucket lies within one coarse bucket."""
    values = [-3.7, -0.02, 0.0, 0.3, 0.31, 5.0, 5.01, 1e9]
    fine, coarse = sketch(values), sketch(values)
    for _ in range(3):
        coarse.coarsen()
    merged: Counter[tuple[float, float]] = Counter()
    for lower, upper, count in fine.buckets():
        (around,) = [(low, high) for low, high, _ in coarse.buckets() if low <= lower and upper <= high]
        merged[around] += count
    assert merged == {(lower, upper): count for lower, upper, count in coarse.buckets()}


def test_numbers_that_come_counted_are_as_if_they_came_one_by_one() -> None:
    one, other = sketch([3.0, 3.0, -7.0, 0.0]), Numbers()
    other.add_counted([(3, 2), (-7, 1), (0, 1)])
    assert one.as_json() == other.as_json()


def test_sums_that_overflow_spoil_nothing_else() -> None:
    found = sketch([1.7e308, 1.7e308, math.nan])
    assert (found.count, found.nan, found.sum) == (2, 1, 0.0)
    assert found.as_json()["largest"] == 1.7e308
