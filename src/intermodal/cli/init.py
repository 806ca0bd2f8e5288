"""`intermodal init PATH`: a commented project file from what inspect found."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("init", example=["intermodal init model.joblib", "intermodal ship ."])
@click.argument("path", type=click.Path(path_type=Path))
def command(session: Session, path: Path) -> Output:
    """Write a commented intermodal.toml for a model.

    The file lands beside the model and states what inspect found; every other key is there as a comment with its
    default. An existing file is never overwritten.
    """
    from intermodal import pipeline
    from intermodal.project.init import refuse_existing, render, write_new
    from intermodal.project.load import load

    refuse_existing(path)
    project = load(path, session.host)
    card = pipeline.inspect(path, host=session.host, events=session.events)
    target = write_new(project.root, render(card, project))
    return session.output({"path": str(target)}, f"{target}\nnext: intermodal ship {project.root}")
