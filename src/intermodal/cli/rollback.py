"""`intermodal rollback MODEL [REVISION]`: back to what was there before."""

from __future__ import annotations

import click

from intermodal.cli.deployments import output, to_option
from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("rollback", example=["intermodal rollback digits", "intermodal rollback digits 3"])
@click.argument("model")
@click.argument("revision", type=click.IntRange(min=1), required=False)
@to_option
def command(session: Session, model: str, revision: int | None, target: str | None) -> Output:
    """Go back to the revision before, or to an earlier one.

    An earlier one must have been promoted once. The old revision is started and healthy before it gets the traffic;
    then the new one is stopped. While a rollout runs, this ends it first.
    """
    from intermodal import rollouts

    return output(session, rollouts.rollback(model, revision, host=session.host, events=session.events, target=target))
