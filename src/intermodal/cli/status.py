"""`intermodal status [MODEL]`: what is deployed, and how rollouts stand."""

from __future__ import annotations

import time

import click

from intermodal.cli.deployments import document, text, to_option
from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make

_EVERY_S = 1.0


@make("status", example=["intermodal status", "intermodal status digits --watch", "intermodal status digits --json"])
@click.argument("model", required=False)
@click.option("--metrics", is_flag=True, help="As metrics, for the textfile collector of node_exporter.")
@click.option("--watch", is_flag=True, help="Show it until the rollout is over, or Ctrl-C.")
@to_option
def command(session: Session, model: str | None, metrics: bool, watch: bool, target: str | None) -> Output:
    """Show what is deployed, who gets which traffic, and the last verdict.

    Traffic is what the gateway confirms. A verdict says what it rests on, and how large a regression it could still
    have missed.
    """
    from intermodal import rollouts

    if metrics:
        from intermodal.cli.metrics_text import metrics_text

        told = metrics_text(rollouts.status(model, host=session.host, target=target))
        return session.output({"metrics": told}, told.rstrip("\n"))

    def look() -> tuple[list[dict[str, object]], str, bool]:
        found = rollouts.status(model, host=session.host, target=target)
        shown = "\n\n".join(text(one) for one in found) or "nothing is deployed\nnext: intermodal deploy IMAGE"
        return [document(one) for one in found], shown, any(one.running for one in found)

    documents, shown, running = look()
    if watch and not session.as_json:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(Text(shown), console=Console(), auto_refresh=False, screen=False) as live:
            while running:
                time.sleep(_EVERY_S)
                documents, shown, running = look()
                live.update(Text(shown), refresh=True)
        shown = ""
    if model is not None:
        return session.output(documents[0], shown)
    return session.output({"deployments": documents}, shown)
