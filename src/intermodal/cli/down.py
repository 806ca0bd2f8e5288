"""`intermodal down MODEL`: take a model away."""

from __future__ import annotations

import click

from intermodal.cli.deployments import document, to_option
from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("down", example=["intermodal down digits", "intermodal down digits --to sandbox"])
@click.argument("model")
@to_option
def command(session: Session, model: str, target: str | None) -> Output:
    """Take a model away from where it is deployed.

    First its route, then its containers. The gateway goes with its last model. Its revisions stay in the history;
    images stay in the store.
    """
    from intermodal import rollouts

    found = rollouts.down(model, host=session.host, events=session.events, target=target)
    return session.output(document(found), f"{found.model} is down on {found.target}")
