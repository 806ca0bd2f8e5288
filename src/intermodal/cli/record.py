"""`intermodal record PATH --inputs FILE`: golden cases from a live model."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.output import Output
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make(
    "record",
    example=[
        "intermodal record examples/digits --inputs rows.npy",
        "intermodal record model.joblib --inputs rows.csv --python ~/train/bin/python",
    ],
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--inputs",
    required=True,
    type=click.Path(path_type=Path),
    help="Inputs: .npy, .npz, .csv, a V2 request as JSON, or golden cases to record again.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="The interpreter the model was trained with; default: the active environment's.",
)
@click.option(
    "--locked", is_flag=True, help="Record in the built image instead; proves only that it agrees with itself."
)
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; default: golden.json of the project.")
def command(
    session: Session, path: Path, inputs: Path, python: Path | None, locked: bool, output: Path | None
) -> Output:
    """Run the model on inputs and write golden cases.

    Runs where the model was trained or proven: the active environment that has its framework, never intermodal's own.
    One case a row for up to 16 rows, and one with all rows. The label "training" is refused where that environment
    contradicts the versions in the model.
    """
    from intermodal import pipeline
    from intermodal.golden.cases import read_golden

    written = pipeline.record(
        path, inputs, host=session.host, events=session.events, python=python, locked=locked, output=output
    )
    golden = read_golden(written)
    document = {
        "path": str(written),
        "recorded_in": golden.recorded_in,
        "environment": dict(golden.environment),
        "cases": [case.name for case in golden.cases],
    }
    text = f"{written}: {len(golden.cases)} cases, recorded in {golden.recorded_in}\nnext: intermodal ship {path}"
    return session.output(document, text)
