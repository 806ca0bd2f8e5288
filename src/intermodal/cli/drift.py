"""`intermodal drift MODEL`: are predictions still what they were at promotion?"""

from __future__ import annotations

import time

import click

from intermodal.cli.beside import drift_document, drift_rows
from intermodal.cli.deployments import to_option
from intermodal.cli.output import Output, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("drift", example=["intermodal drift digits", "intermodal drift digits --every 5m"])
@click.argument("model")
@click.option("--every", metavar="TIME", help='Look again and again, until Ctrl-C: "60s", "5m".')
@to_option
def command(session: Session, model: str, every: str | None, target: str | None) -> Output:
    """Compare live predictions with those at promotion; a warning, never an action.

    Each comparison takes the 500 predictions or more since the one before. When predictions begin to be others, and
    when they are as before again, the deployment log gets a line and [deploy.notify] is told. Exits with 1 when they
    are others.
    """
    from intermodal import aftercare
    from intermodal.rooms.deploy.wish import seconds

    every_s = seconds(every) if every else None
    found = aftercare.drift(model, host=session.host, events=session.events, target=target)
    while every_s is not None:
        for line in (one.sentence() for one in found.drift.shifts if one.warns):
            session.events.warning(line)
        time.sleep(every_s)
        found = aftercare.drift(model, host=session.host, events=session.events, target=target)
    rows = [("model", f"{found.model} on {found.target}, revision {found.revision}"), *drift_rows(found.drift)]
    document = {
        "model": found.model,
        "target": found.target,
        "revision": found.revision,
        "drift": drift_document(found.drift),
    }
    return session.output(document, table(rows), 1 if found.drift.warns else 0)
