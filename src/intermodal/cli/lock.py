"""`intermodal lock PATH`: everything the image will hold, by hash."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session, lock_option
from intermodal.cli.session import command as make

EVERYTHING = ""  # what --upgrade means without a name


@make(
    "lock",
    example=[
        "intermodal lock examples/digits",
        "intermodal lock . --check          # in CI: 1 when the lock no longer describes the project",
        "intermodal lock . --upgrade numpy",
    ],
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 when the lock has drifted.")
@click.option(
    "--upgrade",
    multiple=True,
    is_flag=False,
    flag_value=EVERYTHING,
    metavar="[NAME]",
    help="Take newer versions of NAME (may be given several times), or of everything.",
)
@click.option("--no-urls", is_flag=True, help="Leave addresses out of the lock: the form that is committed.")
@lock_option
def command(
    session: Session, path: Path, check: bool, upgrade: tuple[str, ...], no_urls: bool, lock_file: Path | None
) -> Output:
    """Write down everything the image will hold, by hash.

    Resolves the environment for the image's Python and platform, and the base from signed Debian packages, into
    pylock.intermodal.toml beside the project file. The configuration of pip, uv and apt on this machine counts.
    """
    if check and (upgrade or no_urls):
        raise click.UsageError("--check writes nothing, so --upgrade and --no-urls mean nothing with it")
    from intermodal import pipeline

    chosen = None if not upgrade else tuple(name for name in upgrade if name != EVERYTHING)
    outcome = pipeline.lock(
        path,
        host=session.host,
        events=session.events,
        check=check,
        upgrade=chosen,
        no_urls=no_urls,
        lock_file=lock_file,
    )
    lock = outcome.lock
    document: dict[str, object] = {
        "path": str(outcome.path),
        "state": outcome.state,
        "lock_digest": str(outcome.digest),
        "name": f"{lock.name}:{lock.version}",
        "python": lock.python,
        "platforms": list(lock.platforms),
        "base": lock.base.reference,
        "packages": {package.name: package.version for package in lock.packages},
    }
    debs = f"{len(lock.base.packages)} Debian packages of {lock.base.suite}"
    text = (
        f"{outcome.path}: {outcome.state}\n"
        f"{len(lock.packages)} packages for Python {lock.python}, {debs}\n"
        f"digest {outcome.digest}"
    )
    return session.output(document, text)
