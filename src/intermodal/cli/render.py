"""`intermodal render MODEL|IMAGE --format FORMAT`: files for tools of other people."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.deployments import to_option
from intermodal.cli.output import Output, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make
from intermodal.rooms.render import BUILT, LATER


@make(
    "render",
    example=[
        "intermodal render digits --format prometheus -o monitoring",
        "intermodal render digits --format alerts",
        "intermodal render digits:1.0.0 --format compose -o served",
    ],
)
@click.argument("reference", metavar="MODEL|IMAGE")
@click.option("--format", "form", type=click.Choice([*BUILT, *LATER]), required=True, help="What to write.")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where to; without it a single file goes to standard output.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the gateway in the compose file.")
@to_option
def command(
    session: Session, reference: str, form: str, folder: Path | None, port: int | None, target: str | None
) -> Output:
    """Write files for Prometheus, Grafana or compose.

    prometheus: what to scrape. alerts: rules on errors, latency, readiness, drift and rollouts. grafana: a dashboard
    with revisions side by side. compose: an image behind the gateway, as confined as a deployment; it needs -o.
    kubernetes, helm, kserve and argo are not built yet.

    A deployed MODEL is found by Docker's labels, so the files stay true through rollouts; an IMAGE is expected in the
    network of its compose file.
    """
    from intermodal import rendering
    from intermodal.errors import InputError

    rendered = rendering.render(reference, form, host=session.host, events=session.events, target=target, port=port)
    if folder is None and len(rendered.files) > 1:
        raise InputError(f"--format {form} is several files", found=", ".join(rendered.files), next="give -o DIR")
    if folder is None:
        (content,) = rendered.files.values()
        texts = {name: data.decode() for name, data in rendered.files.items()}
        return session.output(
            {"format": form, "files": texts, "next": list(rendered.next)}, content.decode().rstrip("\n")
        )
    paths = rendering.write(rendered, folder)
    rows = [("" if index else "written", str(path)) for index, path in enumerate(paths)]
    rows += [("" if index else "next", line) for index, line in enumerate(rendered.next)]
    document = {"format": form, "paths": [str(path) for path in paths], "next": list(rendered.next)}
    return session.output(document, table(rows))
