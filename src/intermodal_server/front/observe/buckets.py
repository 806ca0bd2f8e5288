"""A quantile sketch of numbers: exact counts in buckets whose relative width is fixed.

Takes 64-bit floats, hands on counts by bucket. A bucket holds the numbers that share sign, exponent and the first
`bits` bits of the mantissa, so finding it costs one shift and any two sketches have edges in common.

Rules, in order:
1. Counts are exact; only the place of a number within its bucket is lost: at most 2**-(bits+1) of its size.
2. NaN and infinities are counted beside the buckets. Zero and what is next to it share bucket 0.
3. More than `MAX_BUCKETS` buckets: one bit less, neighbours are joined. So sketches of different `bits` can be merged,
   the finer one coarsened first.
"""

from __future__ import annotations

import array
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

FIRST_BITS = 6
MAX_BUCKETS = 2048
MANTISSA_BITS = 52
_FIELDS = ("nan", "positive_infinity", "negative_infinity", "sum", "smallest", "largest")
_SIGN = 1 << 63
_LARGEST = 1.7976931348623157e308
_LARGEST_PATTERN = 0x7FEFFFFFFFFFFFFF


def edges(magnitudes: Iterable[int], bits: int) -> array.array[float]:
    """The lower edges of buckets of these magnitudes >= 0; of what comes after the last bucket, the largest double."""
    shift = MANTISSA_BITS - bits
    patterns = array.array("Q", [min(magnitude << shift, _LARGEST_PATTERN) for magnitude in magnitudes])
    return array.array("d", patterns.tobytes())


class Numbers:
    """The sketch; bucket keys are signed, their magnitude is the number's leading bits."""

    __slots__ = ("bits", "counts", "largest", "nan", "negative_infinity", "positive_infinity", "smallest", "sum")

    def __init__(self) -> None:
        self.bits = FIRST_BITS
        self.counts: dict[int, int] = {}
        self.nan = 0
        self.positive_infinity = 0
        self.negative_infinity = 0
        self.sum = 0.0
        self.smallest = _LARGEST
        self.largest = -_LARGEST

    @property
    def count(self) -> int:
        """How many finite numbers were counted."""
        return sum(self.counts.values())

    def add(self, values: array.array[float]) -> None:
        """Count an array of type "d"."""
        total = sum(values)
        if total - total != 0:  # something in it is not finite, or the sum is not
            values = self._finite(values)
            total = sum(values)
        if not values:
            return
        if total - total == 0:  # a sum beyond the largest double says nothing
            self.sum += total
        self.smallest = min(self.smallest, min(values))
        self.largest = max(self.largest, max(values))
        shift = MANTISSA_BITS - self.bits
        patterns = array.array("Q", values.tobytes())
        self._merge(Counter([pattern >> shift for pattern in patterns]).items(), _SIGN >> shift)

    def add_counted(self, counted: Iterable[tuple[float, int]]) -> None:
        """Count finite numbers that come with how often they occur."""
        shift = MANTISSA_BITS - self.bits
        found = []
        for value, count in counted:
            self.sum += value * count
            self.smallest = min(self.smallest, value)
            self.largest = max(self.largest, value)
            found.append((struct.unpack("<Q", struct.pack("<d", value))[0] >> shift, count))
        self._merge(found, _SIGN >> shift)

    def _finite(self, values: array.array[float]) -> array.array[float]:
        finite = array.array("d")
        for value in values:
            if value - value == 0:
                finite.append(value)
            elif value != value:
                self.nan += 1
            elif value > 0:
                self.positive_infinity += 1
            else:
                self.negative_infinity += 1
        return finite

    def _merge(self, found: Iterable[tuple[int, int]], sign: int) -> None:
        counts = self.counts
        for pattern, count in found:
            key = pattern if pattern < sign else sign - pattern
            counts[key] = counts.get(key, 0) + count
        while len(self.counts) > MAX_BUCKETS:
            self.coarsen()

    def coarsen(self) -> None:
        """Join neighbouring buckets."""
        self.bits -= 1
        joined: dict[int, int] = {}
        for key, count in self.counts.items():
            half = key >> 1 if key >= 0 else -(-key >> 1)
            joined[half] = joined.get(half, 0) + count
        self.counts = joined

    def take(self) -> list[Any]:
        """Everything, for `add_taken`."""
        finite = [getattr(self, name) for name in _FIELDS]
        return [self.bits, [[key, count] for key, count in self.counts.items()], *finite]

    def add_taken(self, taken: Sequence[Any]) -> None:
        """Add what another sketch has counted; the finer of the two is coarsened first."""
        other = Numbers()
        other.bits, counts, nan, positive, negative, total, smallest, largest = taken
        other.counts = dict(counts)
        while other.bits > self.bits:
            other.coarsen()
        while self.bits > other.bits:
            self.coarsen()
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
        while len(self.counts) > MAX_BUCKETS:
            self.coarsen()
        self.nan += nan
        self.positive_infinity += positive
        self.negative_infinity += negative
        self.sum += total
        self.smallest, self.largest = min(self.smallest, smallest), max(self.largest, largest)

    def buckets(self) -> list[tuple[float, float, int]]:
        """Lower edge, upper edge and count of every bucket that is not empty, in rising order."""
        keys = sorted(self.counts)
        near, far = edges(map(abs, keys), self.bits), edges((abs(key) + 1 for key in keys), self.bits)
        found = []
        for key, inner, outer in zip(keys, near, far):
            lower, upper = (inner, outer) if key > 0 else (-outer, -inner) if key < 0 else (-outer, outer)
            found.append((lower, upper, self.counts[key]))
        return found

    def quantiles(self, shares: Iterable[float]) -> list[tuple[float, float]]:
        """Share and number, for rising shares; nothing when nothing was counted."""
        total = self.count
        if not total:
            return []
        found, below = [], 0
        buckets = iter(self.buckets())
        lower, upper, count = next(buckets)
        for share in shares:
            while below + count < share * total:
                below += count
                lower, upper, count = next(buckets)
            found.append((share, min(max(lower + (upper - lower) / 2, self.smallest), self.largest)))
        return found

    def copy(self) -> Numbers:
        """The sketch as it is now."""
        found = Numbers()
        for name in self.__slots__:
            setattr(found, name, getattr(self, name))
        found.counts = dict(self.counts)
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, for `/sketches`."""
        return {
            "count": self.count,
            "nan": self.nan,
            "positive_infinity": self.positive_infinity,
            "negative_infinity": self.negative_infinity,
            "sum": self.sum if self.sum - self.sum == 0 else None,
            "smallest": self.smallest if self.counts else None,
            "largest": self.largest if self.counts else None,
            "bits": self.bits,
            "buckets": self.buckets(),
        }
