"""`intermodal promote MODEL`: past a pause or a hold."""

from __future__ import annotations

import click

from intermodal.cli.deployments import output, to_option
from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("promote", example=["intermodal promote digits"])
@click.argument("model")
@to_option
def command(session: Session, model: str, target: str | None) -> Output:
    """Let a rollout that is paused or held go on.

    To its next step, never past a failure, and only while both revisions are healthy. When nobody watches the
    rollout, this command does.
    """
    from intermodal import rollouts
    from intermodal.rooms.deploy.rollout import Command

    found = rollouts.command(model, Command.PROMOTE, host=session.host, events=session.events, target=target)
    return output(session, found, exit_code=1 if found.went_back else 0)
