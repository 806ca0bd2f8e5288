"""What a check found, as a value, as JSON, and as lines for people; remembered in the store.

A report belongs to an image, its golden cases, an engine and the isolation that engine gave: change any of them and the
report says nothing about the new combination. Only a passed one is ever taken from memory; a failure is looked at
again, because it may have been the machine's fault.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct

from intermodal.engine import NAMES
from intermodal.engine.image import read_image
from intermodal.engine.interface import Engine, Isolation
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal_server.contract import LABEL_GOLDEN_DIGEST
from intermodal_server.golden import Difference, describe

FORMAT = 1
MAX_FAILED = 1000  # differences that are written out; a retrained model may have a million
RecordedIn = Literal["training", "locked", ""]


class ForeseeingEngine(Engine, Protocol):
    """An engine that can tell the isolation it will give before it starts anything."""

    @property
    def isolation(self) -> Isolation:
        """Of a container without network."""
        ...


class CheckReport(Struct, frozen=True):
    """The answer of a check; `passed` only when everything was done and nothing differed.

    `problem` says why the check could not come to its end: the server did not start, was not ready, or died.
    """

    image: Digest  # of the manifest
    cases: int
    recorded_in: RecordedIn
    differences: tuple[Difference, ...]
    engine: str
    isolation: Isolation
    hardening: Mapping[str, bool]
    startup_s: float
    peak_rss_bytes: int
    mode: str = "auto"  # inline, thread or workers once the server has measured and said so
    problem: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    total_differences: int = 0  # more than `differences` when some were left out

    @property
    def passed(self) -> bool:
        """Whether the image started, was ready, and answered as recorded (as far as cases were recorded)."""
        return not self.differences and not self.problem

    def as_json(self) -> dict[str, object]:
        """The fields that `check --json` promises, and a few more."""
        return {
            "passed": self.passed,
            "image": str(self.image),
            "golden": {
                "cases": self.cases,
                "recorded_in": self.recorded_in or None,
                "failed": [_difference_json(difference) for difference in self.differences],
                "differences": max(self.total_differences, len(self.differences)),
            },
            "engine": self.engine,
            "isolation": self.isolation,
            "hardening": dict(self.hardening),
            "mode": self.mode,
            "startup_s": round(self.startup_s, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "problem": list(self.problem),
            "warnings": list(self.warnings),
        }

    def summary(self) -> str:
        """One line: what was compared and how it went; never "passed" without a case."""
        if self.problem:
            return self.problem[0]
        if not self.cases:
            return "started and became ready; there are no golden cases to compare"
        where = f"{self.cases} golden case{'s' if self.cases > 1 else ''} recorded in "
        where += "training" if self.recorded_in == "training" else "the locked environment"
        if not self.differences:
            return f"{where}: all answered alike"
        failed = len({difference.case for difference in self.differences})
        return f"{where}: {failed} answered differently"

    def explain(self, limit: int = 10) -> list[str]:
        """Why the check did not pass, line by line; empty when it did."""
        lines = [*self.problem, *describe(self.differences, limit)]
        left_out = self.total_differences - len(self.differences)
        return [*lines, f"and {left_out} differences more that were not kept"] if left_out > 0 else lines


def _difference_json(difference: Difference) -> dict[str, object]:
    """One difference; `error` is how far apart two numbers are, null where that means nothing."""
    return {
        "case": difference.case,
        "output": difference.output,
        "place": list(difference.place),
        "expected": _json_value(difference.expected),
        "actual": _json_value(difference.actual),
        "error": _json_value(difference.absolute),
        "kind": difference.error,
    }


def _json_value(value: object) -> object:
    """The value in a form that strict JSON knows."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _key(image: Digest, golden: str, engine: str, isolation: str) -> str:
    return f"check {FORMAT} {image} {golden or 'none'} {engine} {isolation}"


def remember(report: CheckReport, golden: str, store: Store) -> None:
    """Put a report into the store.

    Args:
        report: passed or not.
        golden: the golden digest that the image's label states, "" when it has none.
        store: the local store.
    """
    store.put_report(_key(report.image, golden, report.engine, report.isolation), report.as_json())


def find_report(image: Digest, *, store: Store, engine: Engine) -> CheckReport | None:
    """The report of an earlier check that passed, with this engine and the isolation it gives now; None without one."""
    golden = read_image(store, image).labels.get(LABEL_GOLDEN_DIGEST, "")
    isolation = getattr(engine, "isolation", None)
    if isolation is None:
        return None
    document = store.get_report(_key(image, golden, engine.name, isolation))
    if document is None or document.get("passed") is not True:
        return None
    return _from_json(image, document)


def measured_mode(image: Digest, *, store: Store) -> str:
    """Where the model of an image ran best when it was checked here, with whatever engine; "" when it never was."""
    golden = read_image(store, image).labels.get(LABEL_GOLDEN_DIGEST, "")
    for engine in NAMES:
        for isolation in ("full", "partial", "none"):
            document = store.get_report(_key(image, golden, engine, isolation)) or {}
            if document.get("passed") is True and document.get("mode") in ("inline", "thread", "workers"):
                return str(document["mode"])
    return ""


def _from_json(image: Digest, document: Mapping[str, Any]) -> CheckReport | None:
    """A passed report as `as_json` wrote it; None when it is not that."""
    try:
        return CheckReport(
            image=image,
            cases=int(document["golden"]["cases"]),
            recorded_in=document["golden"]["recorded_in"] or "",
            differences=(),
            engine=str(document["engine"]),
            isolation=document["isolation"],
            hardening={str(name): present is True for name, present in document["hardening"].items()},
            startup_s=float(document["startup_s"]),
            peak_rss_bytes=int(document["peak_rss_bytes"]),
            mode=str(document["mode"]),
            warnings=tuple(str(warning) for warning in document["warnings"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
