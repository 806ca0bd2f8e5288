"""`intermodal dockerfile PATH`: the same image as a multi-stage Dockerfile."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session, lock_option
from intermodal.cli.session import command as make


@make(
    "dockerfile",
    example=[
        "intermodal dockerfile examples/digits -o docker",
        "intermodal dockerfile . --wheels           # builds without network",
        "intermodal build . --engine podman         # writes, builds and takes it back in one step",
    ],
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="docker",
    show_default=True,
    metavar="FOLDER",
    help="Where to; missing, empty, or written by this command before.",
)
@click.option("-t", "--tag", metavar="NAME[:TAG]", help="Name of the image; default: name and version of the project.")
@click.option("--wheels", is_flag=True, help="Put every wheel into the folder, so that building needs no network.")
@click.option("--no-mounts", is_flag=True, help="For builders without BuildKit: no cache mounts.")
@lock_option
def command(
    session: Session, path: Path, folder: Path, tag: str | None, wheels: bool, no_mounts: bool, lock_file: Path | None
) -> Output:
    """Write the same image as a multi-stage Dockerfile, with all it copies.

    For teams who must build with Docker, podman or buildah. The same base, packages by hash, server, model, settings
    and entry point as `intermodal build`; pip's cache is kept between builds, the last stage holds no build tools, runs
    as a nobody and has a health check. The base is an image in the local store; load it into the engine, or push it to
    your registry. The golden cases are in it: `intermodal check` proves both roads in the same way.

    PATH is a project folder, an intermodal.toml, or a bare model file or folder.
    """
    from intermodal import beside

    made = beside.dockerfile(
        path,
        folder,
        host=session.host,
        events=session.events,
        tag=tag,
        lock_file=lock_file,
        wheels=wheels,
        mounts=not no_mounts,
    )
    document = {
        "folder": str(made.folder),
        "dockerfile": str(made.folder / "Dockerfile"),
        "base": {"name": made.base.name, "digest": str(made.base.digest), "platform": made.base.platform},
        "lock_digest": str(made.lock_digest),
        "files": made.files,
        "size_bytes": made.size_bytes,
        "wheels": made.wheels,
    }
    offline = " --network none --build-arg PIP_NO_INDEX=1" if made.wheels else ""
    rows = [
        ("written", f"{made.folder / 'Dockerfile'}  {made.files} files, {size(made.size_bytes)}"),
        ("base", f"{made.base.name}  {made.base.digest.short}"),
        ("next", f"intermodal load {made.base.name} --into docker"),
        ("", f"docker build{offline} -t {made.name} {made.folder}"),
    ]
    return session.output(document, table(rows))
