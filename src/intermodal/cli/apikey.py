"""`intermodal apikey NAME`: a key for somebody who may ask a server."""

from __future__ import annotations

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("apikey", example=["intermodal apikey alice"])
@click.argument("name")
def command(session: Session, name: str) -> Output:
    """Make an API key and the line by which a server knows it.

    The key is shown once and kept nowhere. The line holds its SHA-256 and goes into the file that [serve] api_keys or
    INTERMODAL_API_KEYS names; a running server reads a changed file within a second. To take a key back, delete its
    line.
    """
    from intermodal.project.api_keys import make_key

    made = make_key(name)
    text = f"key   {made.key}\nline  {made.line}"
    return session.output({"name": made.name, "key": made.key, "line": made.line}, text)
