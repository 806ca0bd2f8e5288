"""`intermodal abort MODEL`: end a rollout."""

from __future__ import annotations

import click

from intermodal.cli.deployments import output, to_option
from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("abort", example=["intermodal abort digits"])
@click.argument("model")
@to_option
def command(session: Session, model: str, target: str | None) -> Output:
    """End a rollout; the stable revision keeps the traffic.

    All traffic goes back to it, then the new revision is stopped. Waits until that is done.
    """
    from intermodal import rollouts
    from intermodal.rooms.deploy.rollout import Command

    found = rollouts.command(model, Command.ABORT, host=session.host, events=session.events, target=target)
    return output(session, found)
