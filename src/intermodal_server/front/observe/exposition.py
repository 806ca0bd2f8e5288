"""Metrics as text: Prometheus' format 0.0.4, or OpenMetrics 1.0 for those who ask for it.

Takes families of samples, hands on lines. Label values are escaped here and nowhere else, so a class that a model
names `a"} 1` stays a label value.

Spec: Prometheus, "Exposition formats", text format 0.0.4; OpenMetrics 1.0.0, "Text format".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
LINES_AT_ONCE = 200

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value


@dataclass(frozen=True)
class Family:
    """One metric: a name without `_total`, what it counts, and its samples."""

    name: str
    kind: str  # counter | gauge | histogram | summary
    help: str
    samples: Iterable[Sample]


class Histogram:
    """Counts of values at or below each edge; the last count is of what lies above all edges."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.sum += value
        self.counts[bisect_left(self.edges, value)] += 1

    def take(self) -> list[Any]:
        """Sum and counts, without those that are 0, for `add_taken`."""
        return [self.sum, [[place, count] for place, count in enumerate(self.counts) if count]]

    def add_taken(self, taken: Sequence[Any]) -> None:
        """Add what another of these edges has counted."""
        self.sum += taken[0]
        for place, count in taken[1]:
            self.counts[place] += count

    def samples(self, labels: Labels = ()) -> Iterator[Sample]:
        """Its buckets, sum and count."""
        total = 0
        for edge, count in zip((*self.edges, float("inf")), self.counts):
            total += count
            yield "_bucket", (*labels, ("le", number(edge))), total
        yield "_sum", labels, self.sum
        yield "_count", labels, total


def number(value: float) -> str:
    """`value` as both formats write it."""
    if isinstance(value, float):
        if value != value:
            return "NaN"
        if value in (float("inf"), float("-inf")):
            return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def escaped(text: str) -> str:
    """`text` as it stands between the quotes of a label value, or in an OpenMetrics help text."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates


def render(families: Iterable[Family], *, openmetrics: bool) -> Iterator[str]:
    """The page, in pieces of a few hundred lines, so that whoever sends it can let others run in between."""
    lines: list[str] = []
    for family in families:
        name, total = family.name, family.kind == "counter"
        kind = family.kind
        if kind == "untyped" and openmetrics:
            kind = "unknown"
        shown = name + "_total" if total and not openmetrics else name
        help_text = escaped(family.help) if openmetrics else family.help.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"# HELP {shown} {help_text}\n# TYPE {shown} {kind}\n")
        for suffix, labels, value in family.samples:
            end = "_total" if total else suffix
            inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels)
            lines.append(f"{name}{end}{{{inside}}} {number(value)}\n" if inside else f"{name}{end} {number(value)}\n")
            if len(lines) >= LINES_AT_ONCE:
                yield "".join(lines)
                lines.clear()
    if openmetrics:
        lines.append("# EOF\n")
    yield "".join(lines)
