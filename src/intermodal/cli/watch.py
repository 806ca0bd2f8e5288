"""`intermodal watch MODEL`: go on watching a rollout."""

from __future__ import annotations

import click

from intermodal.cli.deployments import document, text, to_option
from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("watch", example=["intermodal watch digits"])
@click.argument("model")
@to_option
def command(session: Session, model: str, target: str | None) -> Output:
    """Go on with a rollout that nobody watches any more.

    It ends when the rollout is over. After that, and after a restart of the machine, it makes sure that what should
    run does. Exits with 1 when the rollout goes back.
    """
    from intermodal import rollouts

    found = rollouts.watch(model, host=session.host, events=session.events, target=target)
    return session.output(document(found), text(found), 1 if found.went_back else 0)
