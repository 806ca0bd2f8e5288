"""What the model predicts: counts of classes and sketches of numbers, by output and traffic.

Takes the outputs of answered requests, hands on counts for the metrics page and for `/sketches`. On the way of a
request only a reference is put aside; the work is done for many requests together, before a page or when
`MAX_PENDING` requests or `MAX_PENDING_BYTES` wait.

Rules, in order:
1. Strings, integers and booleans are classes; integers are numbers too. Floats are numbers. A row of several floats
   counts as one prediction: the class is the place of the largest, the number is the largest.
2. The first `MAX_CLASSES` classes of an output, over all traffic, are counted by name, every other as "(other)", and
   so is a name longer than `MAX_CLASS_CHARS`.
3. Of one request the first `MAX_ROWS` rows, and at most `MAX_VALUES` values, are looked at; the rest is counted as
   unseen. So are outputs of three and more axes.
4. Counts are exact: nothing is sampled.
"""

from __future__ import annotations

import array
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from intermodal_server.contract import DATATYPES, FLOAT_DATATYPES
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe.buckets import FIRST_BITS, Numbers
from intermodal_server.front.observe.exposition import Family, Sample
from intermodal_server.tensors import Tensor

MAX_CLASSES = 64
MAX_CLASS_CHARS = 128
MAX_OUTPUTS = 32
MAX_ROWS = 1024
MAX_VALUES = 16384
MAX_PENDING = 512
MAX_PENDING_BYTES = 64 << 10
OTHER = "(other)"
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_NULL = 0xFFFFFFFF
_LENGTH = struct.Struct("<I").unpack_from
_CODES = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "BOOL": "B", "FP32": "f", "FP64": "d",
}  # fmt: skip
_Key = tuple[str, str, str, tuple[int, ...]]  # traffic, output, datatype, shape


class Sketch:
    """Predictions of one output in one traffic class."""

    __slots__ = ("classes", "missing", "numbers", "other", "rows", "unseen_rows")

    def __init__(self) -> None:
        self.rows = 0
        self.unseen_rows = 0
        self.classes: dict[str, int] = {}
        self.other = 0
        self.missing = 0
        self.numbers: Numbers | None = None

    def copy(self) -> Sketch:
        """The sketch as it is now."""
        found = Sketch()
        for name in self.__slots__:
            setattr(found, name, getattr(self, name))
        found.classes = dict(self.classes)
        found.numbers = self.numbers and self.numbers.copy()
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, for `/sketches`."""
        document: dict[str, Any] = {
            "rows": self.rows,
            "unseen_rows": self.unseen_rows,
            "missing": self.missing,
            "classes": dict(self.classes),
            "other": self.other,
        }
        if self.numbers is not None:
            document["numbers"] = self.numbers.as_json()
        return document


class Output:
    """One output: its type, its classes, its sketches by traffic."""

    def __init__(self, datatype: str) -> None:
        self.datatype = datatype
        self.names: dict[Any, str] = {}  # value -> class, of those that are counted by name
        self.foreign: set[str] = set()  # classes that only twins have met so far
        self.by_traffic: dict[str, Sketch] = {}

    def name(self, value: Any) -> str | None:
        """The class of a value; None when it has no place of its own."""
        name = self.names.get(value)
        if name is None and (self.foreign or self.has_room):
            name = _class_name(value)
            if len(name) > MAX_CLASS_CHARS or not (name in self.foreign or self.has_room):
                return None
            self.foreign.discard(name)
            self.names[value] = name
        return name

    @property
    def has_room(self) -> bool:
        """Whether one more class can be counted by name."""
        return len(self.names) + len(self.foreign) < MAX_CLASSES


def _class_name(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


class Sketches:
    """All of them; one for the life of the front."""

    def __init__(self) -> None:
        self.outputs: dict[str, Output] = {}
        self.failed = 0  # answers that could not be read, or that had outputs beyond MAX_OUTPUTS
        self._pending: dict[_Key, list[bytes]] = {}
        self._waiting = 0
        self._waiting_bytes = 0

    def ended(self, exchange: Exchange, status: int) -> None:
        """A request is over: put its outputs aside."""
        outputs = exchange.outputs
        if not outputs or status >= 400:
            return
        pending, traffic, size = self._pending, exchange.traffic, 0
        for tensor in outputs:
            name, datatype, shape, data = tensor
            if type(data) is not bytes or len(data) > MAX_PENDING_BYTES:
                data = _head(tensor)
            key = (traffic, name, datatype, shape)
            size += len(data)
            try:
                pending[key].append(data)
            except KeyError:
                pending[key] = [data]
        self._waiting += 1
        self._waiting_bytes += size
        if self._waiting >= MAX_PENDING or self._waiting_bytes >= MAX_PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Count what was put aside."""
        pending, self._pending = self._pending, {}
        self._waiting = self._waiting_bytes = 0
        for (traffic, name, datatype, shape), parts in pending.items():
            output = self.outputs.get(name)
            if output is None:
                if len(self.outputs) >= MAX_OUTPUTS:
                    self.failed += len(parts)
                    continue
                output = self.outputs[name] = Output(datatype)
            sketch = output.by_traffic.get(traffic)
            if sketch is None:
                sketch = output.by_traffic[traffic] = Sketch()
            try:
                count(output, sketch, datatype, shape, parts)
            except (ValueError, TypeError, OverflowError, struct.error):  # a model's bytes that do not fit its shape
                self.failed += len(parts)

    def families(self) -> Iterator[Family]:
        """The counts as metrics; call `flush` before."""
        yield Family(
            "intermodal_predictions",
            "counter",
            f"Predictions by class: the first {MAX_CLASSES} classes of each output, then {OTHER}.",
            self._class_samples(),
        )
        yield Family("intermodal_prediction_rows", "counter", "Rows of answers.", self._samples("rows"))
        yield Family(
            "intermodal_prediction_unseen_rows",
            "counter",
            "Rows of answers whose predictions were not counted, for their number or size.",
            self._samples("unseen_rows"),
        )
        yield Family(
            "intermodal_prediction_value",
            "summary",
            "Numbers that the model predicted, since the start of the process.",
            self._number_samples(),
        )
        yield Family(
            "intermodal_prediction_not_finite",
            "counter",
            "Predicted numbers that are none.",
            self._not_finite_samples(),
        )

    @property
    def era(self) -> str:
        """Another text whenever buckets were joined, because then counts of before cannot be subtracted."""
        sketches = (sketch.numbers for _, _, sketch in self._sketches())
        joined = sum(FIRST_BITS - numbers.bits for numbers in sketches if numbers is not None)
        return f"-{joined}" if joined else ""

    def _sketches(self) -> list[tuple[str, str, Sketch]]:
        """All of now; more may come while somebody goes through them."""
        return [
            (name, traffic, sketch)
            for name, output in self.outputs.items()
            for traffic, sketch in output.by_traffic.items()
        ]

    def _samples(self, field: str) -> Iterator[Sample]:
        for name, traffic, sketch in self._sketches():
            yield "", (("output", name), ("traffic", traffic)), getattr(sketch, field)

    def _class_samples(self) -> Iterator[Sample]:
        for name, traffic, sketch in self._sketches():
            counted = dict(sketch.classes)
            if sketch.other:
                counted[OTHER] = counted.get(OTHER, 0) + sketch.other
            for label, number in counted.items():
                yield "", (("output", name), ("class", label), ("traffic", traffic)), number

    def _number_samples(self) -> Iterator[Sample]:
        for name, traffic, sketch in self._sketches():
            if sketch.numbers is not None:
                labels = (("output", name), ("traffic", traffic))
                for share, value in sketch.numbers.quantiles(QUANTILES):
                    yield "", (*labels, ("quantile", repr(share))), value
                yield "_sum", labels, sketch.numbers.sum
                yield "_count", labels, sketch.numbers.count

    def _not_finite_samples(self) -> Iterator[Sample]:
        for name, traffic, sketch in self._sketches():
            numbers = sketch.numbers
            if numbers is not None:
                kinds: Mapping[str, int] = {
                    "nan": numbers.nan, "+inf": numbers.positive_infinity, "-inf": numbers.negative_infinity
                }  # fmt: skip
                for kind, number in kinds.items():
                    yield "", (("output", name), ("kind", kind), ("traffic", traffic)), number

    def pieces(self) -> Iterator[bytes]:
        """JSON of every output for `/sketches`, of one moment, a piece for each sketch; call `flush` before."""
        taken = [
            (name, output.datatype, [(traffic, sketch.copy()) for traffic, sketch in output.by_traffic.items()])
            for name, output in self.outputs.items()
        ]
        return _pieces(taken)


def _pieces(taken: list[tuple[str, str, list[tuple[str, Sketch]]]]) -> Iterator[bytes]:
    before = b"["
    for name, datatype, by_traffic in taken:
        yield before + orjson.dumps({"name": name, "datatype": datatype})[:-1] + b',"traffic":'
        inner = b"{"
        for traffic, sketch in by_traffic:
            yield inner + orjson.dumps(traffic) + b":" + orjson.dumps(sketch.as_json())
            inner = b","
        before = b"}},"
    yield b"}}]" if taken else b"[]"


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows of a shape, rows to look at, values a row."""
    if len(shape) > 2:
        return shape[0], 0, 0
    rows = shape[0] if shape else 1
    width = shape[1] if len(shape) == 2 else 1
    return rows, min(rows, MAX_ROWS, MAX_VALUES // width) if width else 0, width


def _head(tensor: Tensor) -> bytes:
    """A copy of no more than what will be counted."""
    size = DATATYPES[tensor.datatype]
    _, seen, width = _layout(tensor.shape)
    if not seen:
        return b""
    view = memoryview(tensor.data)
    if size:
        return bytes(view[: seen * width * size])
    position = 0
    for _ in range(seen * width):
        if position + 4 > len(view):
            break
        (length,) = _LENGTH(view, position)
        position += 4 if length == _NULL else 4 + length
    return bytes(view[:position])


def count(output: Output, sketch: Sketch, datatype: str, shape: tuple[int, ...], parts: list[bytes]) -> None:
    """Count the data of several answers of one shape.

    Raises:
        ValueError, struct.error: the data is not what datatype and shape say.
    """
    rows, seen, width = _layout(shape)
    if not seen:
        sketch.rows += rows * len(parts)
        sketch.unseen_rows += rows * len(parts)
        return
    if datatype == "BYTES":
        _count_classes(output, sketch, _strings(parts, seen * width))
    else:
        size = seen * width * DATATYPES[datatype]
        values = _array(datatype, b"".join([part[:size] for part in parts] if seen < rows else parts))
        if len(values) != seen * width * len(parts):
            raise ValueError("the data is not as long as the shape says")
        if datatype in FLOAT_DATATYPES:
            _count_numbers(output, sketch, values, width)
        else:
            counted = Counter(values)
            if datatype == "BOOL":
                _count_classes(output, sketch, Counter({str(bool(value)).lower(): n for value, n in counted.items()}))
            else:
                _count_classes(output, sketch, counted)
                sketch.numbers = sketch.numbers or Numbers()
                sketch.numbers.add_counted(counted.items())
    sketch.rows += rows * len(parts)
    sketch.unseen_rows += (rows - seen) * len(parts)


def _array(datatype: str, data: bytes) -> array.array[Any]:
    if datatype == "FP16":
        return array.array("d", struct.unpack(f"<{len(data) // 2}e", data))
    values = array.array(_CODES[datatype])
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _strings(parts: list[bytes], most: int) -> Counter[Any]:
    """Strings of answers with how often they occur; equal answers are read once."""
    counted: Counter[Any] = Counter()
    for data, times in Counter(parts).items():
        position, left = 0, most
        while position < len(data) and left:
            (length,) = _LENGTH(data, position)
            position += 4
            left -= 1
            if length == _NULL:
                counted[None] += times
                continue
            if length > len(data) - position:
                raise ValueError("a string is longer than the data")
            counted[data[position : position + length]] += times
            position += length
    return counted


def _count_classes(output: Output, sketch: Sketch, counted: Counter[Any]) -> None:
    classes = sketch.classes
    for value, times in counted.items():
        if value is None:
            sketch.missing += times
            continue
        name = output.name(value)
        if name is None:
            sketch.other += times
        else:
            classes[name] = classes.get(name, 0) + times


def _count_numbers(output: Output, sketch: Sketch, values: array.array[float], width: int) -> None:
    sketch.numbers = sketch.numbers or Numbers()
    if width == 1:
        sketch.numbers.add(values if values.typecode == "d" else array.array("d", values))
        return
    flat = values.tolist()
    rows: list[list[float]] = [flat[start : start + width] for start in range(0, len(flat), width)]
    total = sum(flat)
    if total != total:  # a NaN somewhere, or infinities of both signs
        seen = len(rows)
        rows = [row for row in rows if not any(value != value for value in row)]
        sketch.numbers.nan += seen - len(rows)
        sketch.missing += seen - len(rows)
    best = list(map(max, rows))
    _count_classes(output, sketch, Counter(map(list.index, rows, best)))
    sketch.numbers.add(array.array("d", best))
