"""`intermodal history [MODEL]`: all its revisions, and the log of what happened to them."""

from __future__ import annotations

import click

from intermodal.cli.deployments import to_option
from intermodal.cli.output import Output, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("history", example=["intermodal history digits", "intermodal history digits --log"])
@click.argument("model", required=False)
@click.option("--log", "with_log", is_flag=True, help="The deployment log, line by line.")
@to_option
def command(session: Session, model: str | None, with_log: bool, target: str | None) -> Output:
    """List a model's revisions, and check the deployment log.

    MODEL may be left out where there is only one. Every line of the log is bound to the one before it by a hash; that
    is checked here, and the command exits with 1 when a line was changed, taken out or put in.
    """
    from intermodal import deployed

    past = deployed.history(model, host=session.host, target=target)
    rows = [("REVISION", "STATE", "IMAGE", "CREATED", "WHY")]
    rows += [
        (str(one.number), one.state.value, one.image.short, one.created, past.reasons.get(one.number, ""))
        for one in past.revisions
    ]
    lines = [table(rows)]
    if with_log:
        lines += [""] + [
            f"{line.seq}  {line.body['at']}  {line.body['what']}"
            + "".join(f"  {key}={value}" for key, value in line.body.items() if key not in ("at", "what") and value)
            for line in past.log
        ]
    if past.broken:
        session.events.warning(f"the deployment log is not what was written: {past.broken}")
    document = {
        "model": past.model,
        "target": past.target,
        "revisions": [
            {
                "number": one.number,
                "digest": one.listed,
                "state": one.state.value,
                "created": one.created,
                "promoted_once": one.proven,
                "reason": past.reasons.get(one.number, ""),
            }
            for one in past.revisions
        ],
        "log": [{"seq": line.seq, "hash": line.hash, **line.body} for line in past.log],
        "log_intact": not past.broken,
    }
    return session.output(document, "\n".join(lines), 1 if past.broken else 0)
