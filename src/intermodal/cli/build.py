"""`intermodal build PATH`: the image into the local store."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make(
    "build",
    example=[
        "intermodal build examples/digits",
        "intermodal build . -t digits:2 -o oci:out      # also as an OCI layout",
    ],
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-t", "--tag", metavar="NAME[:TAG]", help="Name of the image; default: name and version of the project.")
@click.option("-o", "--output", metavar="oci:DIR[:TAG]", help="Also write the image as an OCI layout.")
def command(session: Session, path: Path, tag: str | None, output: str | None) -> Output:
    """Build the image into the local store and print its digest.

    No daemon, no root, no Dockerfile: wheels become layers as they are. The same project gives the same digest on
    any machine; what is unchanged is not built again. Standard output carries NAME@DIGEST alone.
    """
    if output is not None and not output.startswith("oci:"):
        kind = output.partition(":")[0]
        hint = "not built yet: docker-archive" if kind == "docker-archive" else f"unknown kind of output {kind!r}"
        raise click.BadParameter(f"{hint}; take oci:DIR", param_hint="--output")
    from intermodal import pipeline

    image = pipeline.build(path, host=session.host, events=session.events, tag=tag, output=output)
    name = image.name.partition(":")[0]
    return session.output(image.as_json(), f"{name}@{image.digest}")
