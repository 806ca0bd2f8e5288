"""Predictions that one process has counted, brought to the sketches of another.

Takes sketches, hands on plain values for JSON, and adds such values to other sketches. The other numbers (`Metrics`,
`Statistics`, `Numbers`) have `take` and `add` of their own.

Rules, in order:
1. What is taken is counted no more where it was taken, so that nothing is told twice.
2. Classes that have no place of their own where they are added are counted as others there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intermodal_server.front.observe.buckets import Numbers
from intermodal_server.front.observe.sketches import MAX_OUTPUTS, Output, Sketch, Sketches

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
