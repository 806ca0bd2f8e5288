"""`intermodal check IMAGE`: golden predictions in a hardened container."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from intermodal.cli.output import Output, seconds, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make
from intermodal.engine import NAMES

if TYPE_CHECKING:
    from intermodal.rooms.check import CheckReport


@make("check", example=["intermodal check digits:1.0.0", "intermodal check examples/digits --json"])
@click.argument("image")
@click.option("--engine", type=click.Choice(NAMES), default="sandbox", help="What runs the container.")
def command(session: Session, image: str, engine: str) -> Output:
    """Start an image under least privilege and replay its golden cases.

    The container has no network, no capabilities and a read-only root; which measures it really had is reported.
    Exits with 1 when it does not start, does not become ready, or answers differently.

    IMAGE is NAME[:TAG], a digest, or a project's path (built when needed; an existing path wins over a name).
    """
    from intermodal import pipeline

    report = pipeline.check(image, host=session.host, events=session.events, engine=engine)
    return session.output(report.as_json(), report_text(report, image), 0 if report.passed else 1)


def report_text(report: CheckReport, image: str) -> str:
    """The report as a person reads it."""
    document = report.as_json()
    hardening = document["hardening"]
    assert isinstance(hardening, dict)
    absent = sorted(name for name, present in hardening.items() if present is False)
    rows = [
        ("check", "passed" if report.passed else "FAILED"),
        ("golden", report.summary()),
        ("engine", f"{document['engine']}, isolation {document['isolation']}"),
    ]
    if absent:
        rows.append(("absent", ", ".join(absent)))
    rows.append(
        ("start-up", f"{seconds(float(str(document['startup_s'])))}, {size(int(str(document['peak_rss_bytes'])))}")
    )
    rows += [("" if n else "differs", line) for n, line in enumerate(() if report.passed else report.explain())]
    warnings = document["warnings"]
    assert isinstance(warnings, list)
    rows += [("warning", str(warning)) for warning in warnings]
    rows.append(
        ("next", f"intermodal run {image}" if report.passed else "intermodal record, if the new answers are right")
    )
    return table(rows)
