"""`intermodal load IMAGE --into ENGINE`: an image of the local store into an engine of this machine."""

from __future__ import annotations

import click

from intermodal.cli.output import Output, seconds, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make(
    "load",
    example=["intermodal load digits:1.0.0 --into docker", "docker run -p 8080:8080 digits:1.0.0"],
)
@click.argument("image")
@click.option("--into", type=click.Choice(["docker", "podman", "containerd"]), required=True, help="Where to.")
@click.option("--name", help="NAME:TAG to list it under there; default: its name here.")
def command(session: Session, image: str, into: str, name: str | None) -> Output:
    """Load an image into an engine of this machine, moving only the layers it lacks.

    IMAGE is NAME[:TAG], a digest, or a project's path (built when needed; an existing path wins over a name).
    """
    from intermodal import pipeline

    report = pipeline.load_into(image, into, host=session.host, events=session.events, name=name)
    moved = f"{report.layers_sent} of {report.layers_total} layers, {size(report.bytes_sent)}"
    rows = [
        ("loaded", f"{report.name} into {report.engine}, {seconds(report.seconds)}"),
        ("moved", moved if report.layers_sent else "nothing: it was there"),
        ("image", report.image),
    ]
    if report.engine != "containerd":
        rows.append(("next", f"{report.engine} run -p 127.0.0.1:8080:8080 {report.name}"))
    return session.output(report.as_json(), table(rows))
