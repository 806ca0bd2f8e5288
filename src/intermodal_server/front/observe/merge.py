"""Predictions that one process has counted or kept, brought to the sketches or the ring of another.

Takes sketches, hands on plain values for JSON, and adds such values to other sketches; makes bytes of a ring's entries,
and entries of the bytes. The other numbers (`Metrics`, `Statistics`, `Numbers`) have `take` and `add` of their own.

Rules, in order:
1. What is taken is counted no more where it was taken, so that nothing is told twice.
2. Classes that have no place of their own where they are added are counted as others there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import orjson

from intermodal_server.front.observe.buckets import Numbers
from intermodal_server.front.observe.ring import Entry, Tensors
from intermodal_server.front.observe.sketches import MAX_OUTPUTS, Output, Sketch, Sketches
from intermodal_server.tensors import Tensor

_COUNTS = ("rows", "unseen_rows", "other", "missing")


def take_sketches(sketches: Sketches) -> dict[str, Any]:
    """What was counted since this was last asked."""
    sketches.flush()
    found = []
    for name, output in sketches.outputs.items():
        by_traffic, output.by_traffic = output.by_traffic, {}
        if by_traffic:
            taken = {traffic: _take(sketch) for traffic, sketch in by_traffic.items()}
            found.append([name, output.datatype, taken])
    failed, sketches.failed = sketches.failed, 0
    return {"failed": failed, "outputs": found}


def _take(sketch: Sketch) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(sketch, name) for name in _COUNTS}
    return {**found, "classes": sketch.classes, "numbers": sketch.numbers and sketch.numbers.take()}


def add_sketches(sketches: Sketches, taken: Mapping[str, Any]) -> None:
    """Count what another process has counted."""
    sketches.failed += taken["failed"]
    for name, datatype, by_traffic in taken["outputs"]:
        output = sketches.outputs.get(name)
        if output is None:
            if len(sketches.outputs) >= MAX_OUTPUTS:
                sketches.failed += sum(found["rows"] for found in by_traffic.values())
                continue
            output = sketches.outputs[name] = Output(datatype)
        for traffic, found in by_traffic.items():
            _add(output, output.by_traffic.setdefault(traffic, Sketch()), found)


def _add(output: Output, sketch: Sketch, found: Mapping[str, Any]) -> None:
    for name in _COUNTS:
        setattr(sketch, name, getattr(sketch, name) + found[name])
    known = output.foreign.union(output.names.values())
    for label, count in found["classes"].items():
        if label not in known:
            if not output.has_room:
                sketch.other += count
                continue
            output.foreign.add(label)
        sketch.classes[label] = sketch.classes.get(label, 0) + count
    if found["numbers"] is not None:
        sketch.numbers = sketch.numbers or Numbers()
        sketch.numbers.add_taken(found["numbers"])


def pack_entries(lost: int, entries: Sequence[Entry]) -> bytes:
    """What a ring was asked to hand on: a line of JSON that describes it, and the tensors' bytes."""
    about = [
        (one.request_id, one.traffic, one.time_s, one.size_bytes, _about(one.outputs), _about(one.inputs))
        for one in entries
    ]
    parts: list[Any] = [orjson.dumps((lost, about)), b"\n"]
    for one in entries:
        parts += [tensor.data for tensor in (*(one.outputs or ()), *(one.inputs or ()))]
    return b"".join(parts)


def _about(tensors: Tensors) -> Optional[list[Any]]:
    if tensors is None:
        return None
    return [(tensor.name, tensor.datatype, tensor.shape, len(tensor.data)) for tensor in tensors]


def unpack_entries(packed: bytes) -> tuple[int, list[Entry]]:
    """What `pack_entries` was given."""
    line, _, rest = packed.partition(b"\n")
    lost, about = orjson.loads(line)
    data = memoryview(rest)
    entries = []
    for request_id, traffic, time_s, size_bytes, outputs, inputs in about:
        found = []
        for described in (outputs, inputs):
            tensors, data = _tensors(described, data)
            found.append(tensors)
        entries.append(Entry(request_id, traffic, time_s, size_bytes, *found))
    return lost, entries


def _tensors(about: Optional[Iterable[Any]], data: memoryview) -> tuple[Tensors, memoryview]:
    """Tensors, and the bytes behind theirs."""
    if about is None:
        return None, data
    found = []
    for name, datatype, shape, length in about:
        found.append(Tensor(name, datatype, tuple(shape), bytes(data[:length])))
        data = data[length:]
    return tuple(found), data
