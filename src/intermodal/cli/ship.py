"""`intermodal ship PATH`: all rooms, as far as they are configured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from intermodal.cli.output import Output, seconds, size, table
from intermodal.cli.session import Session, engine_option, lock_option
from intermodal.cli.session import command as make

if TYPE_CHECKING:
    from intermodal.outcomes import ShipReport


@make("ship", example=["intermodal ship model.joblib", "intermodal ship examples/digits"])
@click.argument("path", type=click.Path(path_type=Path))
@engine_option("What runs the check.")
@lock_option
def command(session: Session, path: Path, lock_file: Path | None, engine: str) -> Output:
    """Walk the whole corridor: inspect, lock, build, check, and push where [push] says so.

    Ends with a checked image in the local store, and in the registry that the project names. A second run does only
    what changed, and says so.

    PATH is a project folder, an intermodal.toml, or a bare model file or folder.
    """
    from intermodal import pipeline

    report = pipeline.ship(path, host=session.host, events=session.events, engine=engine, lock_file=lock_file)
    return session.output(report.as_json(), report_text(report))


def report_text(report: ShipReport) -> str:
    """The table of rooms, the digest, and what to try next."""
    rows = [(step.room, step.did, seconds(step.seconds)) for step in report.steps]
    rows.append(("", "", seconds(sum(step.seconds for step in report.steps))))
    image = report.image
    sizes = f"{size(image.compressed_bytes)} compressed, {size(image.size_bytes)} unpacked"
    head = "nothing to do\n" if report.nothing_to_do else ""
    pushed = f"{report.pushed.pinned}\n" if report.pushed is not None else ""
    return (
        f"{head}{table(rows, right=[2])}\n\n"
        f"{image.name.partition(':')[0]}@{image.digest}\n{image.name}  {sizes}\n{pushed}"
        f"next: {report.next}"
    )
