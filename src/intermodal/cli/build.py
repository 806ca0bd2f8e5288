"""`intermodal build PATH`: the image into the local store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session, lock_option
from intermodal.cli.session import command as make

PLATFORMS = ("linux/amd64", "linux/arm64")
ONLY = "Only this platform of the project's, or any when the project names none; can be given twice."
BUILDERS = ("docker", "podman", "buildah")


@make(
    "build",
    example=[
        "intermodal build examples/digits",
        "intermodal build . -t digits:2 -o oci:out      # also as an OCI layout",
        "intermodal build . -o docker-archive:digits.tar   # for docker load",
        "intermodal build . --platform linux/arm64     # this platform alone, without emulation",
        "intermodal build . --engine podman       # from a Dockerfile, for comparison",
    ],
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-t", "--tag", metavar="NAME[:TAG]", help="Name of the image; default: name and version of the project.")
@click.option("-o", "--output", metavar="oci:DIR[:TAG]|docker-archive:FILE", help="Also write the image there.")
@click.option("--engine", type=click.Choice(BUILDERS), help="Build from the Dockerfile that `dockerfile` writes.")
@click.option("--platform", "platforms", type=click.Choice(PLATFORMS), multiple=True, help=ONLY)
@lock_option
def command(
    session: Session,
    path: Path,
    lock_file: Path | None,
    tag: str | None,
    output: str | None,
    engine: str | None,
    platforms: tuple[str, ...],
) -> Output:
    """Build the image into the local store and print its digest.

    No daemon, no root, no Dockerfile: wheels become layers as they are. The same project gives the same digest on
    any machine; what is unchanged is not built again. Standard output carries NAME@DIGEST alone.

    With --engine, docker, podman or buildah builds it from a Dockerfile instead, without network, and the result is
    taken back into the store: the same packages, model and answers, but layers and a digest of the engine's own.
    """
    if output is not None and not output.startswith(("oci:", "docker-archive:")):
        kind = output.partition(":")[0]
        raise click.BadParameter(f"unknown kind {kind!r}; take oci:DIR or docker-archive:FILE", param_hint="--output")
    if engine is not None and platforms:
        raise click.BadParameter(f"{engine} builds for this machine alone; leave --engine out", param_hint="--platform")
    if engine is None:
        from intermodal import pipeline

        build = partial(pipeline.build, platforms=platforms)
    else:
        from intermodal.beside import build_with

        build = partial(build_with, engine)
    image = build(path, host=session.host, events=session.events, tag=tag, output=output, lock_file=lock_file)
    name = image.name.partition(":")[0]
    return session.output(image.as_json(), f"{name}@{image.digest}")
