"""Numbers of several processes: the whole is the sum of its parts, whoever counted what and told it when."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe import buckets
from intermodal_server.front.observe.buckets import Numbers
from intermodal_server.front.observe.merge import add_sketches, take_sketches
from intermodal_server.front.observe.metrics import Metrics
from intermodal_server.front.observe.sketches import MAX_CLASSES, Sketches
from intermodal_server.front.statistics import Statistics
from intermodal_server.tensors import Tensor

FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)
FLOAT_ROWS = st.lists(FLOATS, min_size=1, max_size=4)
LABELS = st.sampled_from(["a", "b", "ü", "\\xff"])


def _floats(values: list[float]) -> Tensor:
    return Tensor("score", "FP64", (len(values),), struct.pack(f"<{len(values)}d", *values))


def _strings(values: list[str]) -> Tensor:
    data = b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)
    return Tensor("label", "BYTES", (len(values),), data)


@st.composite
def exchanges(draw: Any) -> tuple[Exchange, int]:
    exchange = Exchange.own(draw(st.sampled_from(["live", "mirror", "golden"])))
    exchange.protocol = draw(st.sampled_from(["v2", "predict", "http"]))
    exchange.started_s = 0.0
    status = draw(st.sampled_from([200, 200, 200, 400, 500]))
    if status == 200 and exchange.protocol != "http":
        exchange.rows = draw(st.integers(1, 8))
        exchange.batch_rows = exchange.rows * draw(st.integers(1, 3))
        exchange.queue_s, exchange.compute_s = draw(st.floats(0, 1)), draw(st.floats(0.001, 1))
        exchange.outputs = [_floats(draw(FLOAT_ROWS)), _strings(draw(st.lists(LABELS, min_size=1, max_size=3)))]
    return exchange, status


class Counting:
    """What one process counts."""

    def __init__(self) -> None:
        self.metrics = Metrics(clock=lambda: 0.25, now=lambda: 0.0)
        self.metrics.instance = "one"
        self.sketches = Sketches()
        self.statistics = Statistics()

    def ended(self, exchange: Exchange, status: int) -> None:
        """Count one request."""
        self.metrics.began(exchange)
        self.metrics.ended(exchange, status)
        self.sketches.ended(exchange, status)
        self.statistics.observe(exchange, status)

    def take(self) -> Any:
        """What a twin sends, as it arrives."""
        parts = [self.metrics.take(), take_sketches(self.sketches), self.statistics.take()]
        return json.loads(json.dumps(parts))

    def add(self, taken: Any) -> None:
        """What the front does with it."""
        self.metrics.add(taken[0])
        self.sketches.flush()
        add_sketches(self.sketches, taken[1])
        self.statistics.add(taken[2])

    def shown(self) -> dict[str, Any]:
        """Everything that a page may show."""
        self.sketches.flush()
        statistics = self.statistics.as_json("m", "1")["model_stats"][0]
        del (
            statistics["last_inference"],
            statistics["inference_stats"]["success"],
            statistics["inference_stats"]["fail"],
        )
        families = [
            (family.name, suffix, labels, value)
            for source in (self.metrics, self.sketches)
            for family in source.families()
            for suffix, labels, value in family.samples
        ]
        sketches = json.loads(b"".join(self.sketches.pieces()))
        for output in sketches:
            for sketch in output["traffic"].values():
                sketch["classes"] = sorted(sketch["classes"].items())
        return {
            "families": sorted(families, key=repr),
            "sketches": sorted(sketches, key=lambda output: output["name"]),
            "json": self.metrics.as_json(),
            "statistics": statistics,
            "failed": self.sketches.failed,
        }


def roughly(value: Any) -> Any:
    """Sums of floats depend on their order, all else must be equal."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True)
    if isinstance(value, dict):
        return {key: roughly(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(roughly(inner) for inner in value)
    return value


def _nanoseconds(shown: dict[str, Any]) -> None:
    """Rounded sums may differ by one."""
    for part in (*shown["statistics"]["inference_stats"].values(), *shown["statistics"]["batch_stats"]):
        for inner in [part, *[value for value in part.values() if isinstance(value, dict)]]:
            if "ns" in inner:
                inner["ns"] = float(round(inner["ns"], -3))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(exchanges(), st.integers(0, 2), st.booleans()), max_size=30))
def test_the_whole_is_the_sum_of_its_parts(requests: list[tuple[tuple[Exchange, int], int, bool]]) -> None:
    whole, processes = Counting(), [Counting() for _ in range(3)]
    for (exchange, status), who, tells in requests:
        whole.ended(exchange, status)
        processes[who].ended(exchange, status)
        if tells and who:
            processes[0].add(processes[who].take())
    for twin in processes[1:]:
        processes[0].add(twin.take())
        assert twin.take()[1] == {"failed": 0, "outputs": []}  # nothing is told twice
    found, expected = processes[0].shown(), whole.shown()
    if any("1.7976931348623157e+308" in repr(sample) or "inf" in repr(sample) for sample in expected["families"]):
        for shown in (found, expected):  # sums beyond the largest double say nothing, and depend on the order
            shown["families"] = [sample for sample in shown["families"] if sample[1] != "_sum"]
            for output in shown["sketches"]:
                for sketch in output["traffic"].values():
                    sketch.get("numbers", {}).pop("sum", None)
    _nanoseconds(found)
    _nanoseconds(expected)
    assert found == roughly(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(FLOAT_ROWS, st.booleans()), max_size=20))
def test_sketches_of_different_widths_are_joined_at_the_coarser(parts: list[tuple[list[float], bool]]) -> None:
    most, buckets.MAX_BUCKETS = buckets.MAX_BUCKETS, 8
    try:
        whole, front, twin = Numbers(), Numbers(), Numbers()
        for values, here in parts:
            for numbers in (whole, front if here else twin):
                numbers.add(buckets.array.array("d", values))
        front.add_taken(json.loads(json.dumps(twin.take())))
    finally:
        buckets.MAX_BUCKETS = most
    while whole.bits > front.bits:
        whole.coarsen()
    while front.bits > whole.bits:
        front.coarsen()
    assert front.counts == whole.counts
    assert (front.nan, front.smallest, front.largest) == (whole.nan, whole.smallest, whole.largest)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 200), st.booleans()), min_size=1, max_size=300))
def test_no_prediction_is_lost_where_there_are_more_classes_than_places(found: list[tuple[int, bool]]) -> None:
    front, twin = Sketches(), Sketches()
    for value, here in found:
        exchange = Exchange.own("live")
        exchange.outputs = [_strings([f"class {value}"])]
        (front if here else twin).ended(exchange, 200)
    front.flush()
    add_sketches(front, json.loads(json.dumps(take_sketches(twin))))
    sketch = front.outputs["label"].by_traffic["live"]
    assert sum(sketch.classes.values()) + sketch.other == len(found)
    assert len(sketch.classes) == min(MAX_CLASSES, len({value for value, _ in found})) or sketch.other
    assert len(sketch.classes) <= MAX_CLASSES
    exchange = Exchange.own("live")
    exchange.outputs = [_strings(list(sketch.classes))]
    before = sketch.other
    front.ended(exchange, 200)
    front.flush()
    assert sketch.other == before  # a class that a twin had met first has its place here, too
