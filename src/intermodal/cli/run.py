"""`intermodal run IMAGE`: serve on this host."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make
from intermodal.engine import NAMES


@make(
    "run",
    example=[
        "intermodal run digits:1.0.0 --port 8080",
        "curl localhost:8080/v2/models/digits",
    ],
)
@click.argument("image")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port on loopback.")
@click.option(
    "--grpc-port", type=click.IntRange(1, 65535), help="Port on loopback for gRPC; needs [serve] grpc = true."
)
@click.option("--engine", type=click.Choice(NAMES), default="sandbox", help="What runs the container.")
@click.option("--api-keys", metavar="FILE", help="Whose keys are taken; needed when [serve] api_keys is set.")
def command(
    session: Session, image: str, port: int, grpc_port: int | None, engine: str, api_keys: str | None
) -> Output:
    """Serve an image or project on this host, in the foreground.

    Listens on 127.0.0.1 until Ctrl-C, then finishes what runs and exits.

    IMAGE is NAME[:TAG], a digest, or a project's path (built when needed; an existing path wins over a name).
    """
    from intermodal import pipeline

    keys = ""
    if api_keys is not None:
        from intermodal.project.api_keys import as_variable

        keys = as_variable(Path(api_keys))
    more = {"grpc_port": grpc_port, "api_keys": keys}
    status = pipeline.run(image, host=session.host, events=session.events, engine=engine, port=port, **more)
    return session.output({"exit_code": status}, "", status)
