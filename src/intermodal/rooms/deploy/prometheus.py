"""Numbers in Prometheus' text form: Envoy's and the server's.

Takes what a scrape gave, hands on samples. What does not parse is left out, because a scrape must not end a rollout;
what is missing is told by whoever needs it. Nothing here does I/O.

Spec: Prometheus text exposition format 0.0.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import inf, isfinite

from msgspec import Struct

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+([^ \t]+)(?:[ \t]+-?\d+)?$")
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPED = {"n": "\n", '"': '"', "\\": "\\"}


class Sample(Struct, frozen=True):
    """One number with its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(data: bytes) -> tuple[Sample, ...]:
    """The samples of a scrape.

    Example:
        >>> parse(b'a{b="c"} 2')[0].labels
        {'b': 'c'}
    """
    found = []
    for line in data.decode("utf-8", "replace").splitlines():
        match = _LINE.match(line)
        if match is None or line.startswith("#"):
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        labels = {name: re.sub(r"\\(.)", _plain, text) for name, text in _LABEL.findall(match[2] or "")}
        found.append(Sample(match[1], labels, value))
    return tuple(found)


def _plain(match: re.Match[str]) -> str:
    return _ESCAPED.get(match[1], match[0])


def total(samples: Iterable[Sample], name: str, **labels: str) -> int:
    """The sum of a counter over all samples that have these labels."""
    return int(sum(one.value for one in samples if one.name == name and _has(one, labels) and isfinite(one.value)))


def histogram(
    samples: Iterable[Sample], name: str, *, unit_s: float = 1.0, **labels: str
) -> tuple[tuple[float, int], ...]:
    """(upper edge in seconds, how many at or below it), rising; several histograms are added up.

    Args:
        samples: of one scrape.
        name: without `_bucket`.
        unit_s: seconds that an edge of 1 stands for.
        labels: which a sample must have.
    """
    found: dict[float, int] = {}
    for one in samples:
        if one.name == f"{name}_bucket" and _has(one, labels):
            text = one.labels.get("le", "")
            try:
                edge = inf if text == "+Inf" else float(text) * unit_s
            except ValueError:
                continue
            found[edge] = found.get(edge, 0) + int(one.value)
    return tuple(sorted(found.items()))


def _has(sample: Sample, labels: Mapping[str, str]) -> bool:
    return all(sample.labels.get(name) == value for name, value in labels.items())
