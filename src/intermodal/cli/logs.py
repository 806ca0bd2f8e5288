"""`intermodal logs MODEL`: what its containers wrote."""

from __future__ import annotations

import click

from intermodal.cli.deployments import to_option
from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("logs", example=["intermodal logs digits", "intermodal logs digits --revision 3 -n 500"])
@click.argument("model")
@click.option("--revision", type=click.IntRange(min=1), help="Which; default: the newest.")
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Of each replica.")
@to_option
def command(session: Session, model: str, revision: int | None, lines: int, target: str | None) -> Output:
    """Show what a revision's containers wrote.

    The end of it, of each replica, also after they ended.
    """
    from intermodal import deployed

    number, found = deployed.logs(model, revision, host=session.host, target=target, lines=lines)
    return session.output({"model": model, "revision": number, "lines": found.splitlines()}, found)
