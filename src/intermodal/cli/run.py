"""`intermodal run IMAGE`: serve on this host."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make
from intermodal.engine import NAMES

LOAD = "Instead of serving: send its golden inputs, so many requests a second."


@make(
    "run",
    example=[
        "intermodal run digits:1.0.0 --port 8080",
        "curl localhost:8080/v2/models/digits",
        "intermodal run digits --load 100",
    ],
)
@click.argument("image")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port on loopback.")
@click.option(
    "--grpc-port", type=click.IntRange(1, 65535), help="Port on loopback for gRPC; needs [serve] grpc = true."
)
@click.option("--engine", type=click.Choice(NAMES), default="sandbox", help="What runs the container.")
@click.option("--load", type=click.FloatRange(0, 10000, min_open=True), metavar="RATE", help=LOAD)
@click.option("--url", metavar="URL", help="With --load: where to; by default where the model is deployed.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="With --load: how long; else until Ctrl-C.")
@click.option("--api-key", metavar="REFERENCE", help="With --load: the key to send, env:NAME or file:PATH.")
@click.option("--api-keys", metavar="FILE", help="Whose keys are taken; needed when [serve] api_keys is set.")
def command(
    session: Session,
    image: str,
    port: int,
    grpc_port: int | None,
    engine: str,
    load: float | None,
    url: str | None,
    seconds: float | None,
    api_key: str | None,
    api_keys: str | None,
) -> Output:
    """Serve an image or project on this host, in the foreground.

    Listens on 127.0.0.1 until Ctrl-C, then finishes what runs and exits. With --load it serves nothing, but sends the
    image's golden inputs, so that a rollout can be tried at home.

    IMAGE is NAME[:TAG], a digest, or a project's path (built when needed; an existing path wins over a name).
    """
    if load is not None:
        return _load(session, image, load, url or "", seconds=seconds, api_key=api_key or "")
    if url is not None or seconds is not None or api_key is not None:
        raise click.UsageError("--url, --seconds and --api-key go with --load")
    from intermodal import pipeline

    keys = ""
    if api_keys is not None:
        from intermodal.project.api_keys import as_variable

        keys = as_variable(Path(api_keys))
    more = {"grpc_port": grpc_port, "api_keys": keys}
    status = pipeline.run(image, host=session.host, events=session.events, engine=engine, port=port, **more)
    return session.output({"exit_code": status}, "", status)


def _load(session: Session, image: str, rate_per_s: float, url: str, *, seconds: float | None, api_key: str) -> Output:
    from msgspec import to_builtins

    from intermodal.beside import send_load
    from intermodal.rollouts import status

    host, events = session.host, session.events
    deployed = {} if url else {one.model: one.endpoint for one in status(host=host)}
    report = send_load(
        image,
        rate_per_s=rate_per_s,
        url=url,
        deployed=deployed,
        seconds=seconds,
        api_key=api_key,
        host=host,
        events=events,
    )
    return session.output(to_builtins(report), report.sentence(), 1 if report.lost else 0)
