"""`intermodal feedback MODEL`: what the answers should have been."""

from __future__ import annotations

from pathlib import Path

import click

from intermodal.cli.deployments import to_option
from intermodal.cli.output import Output, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make(
    "feedback",
    example=[
        "intermodal feedback digits --request 5e7a-1 --label 7",
        "intermodal feedback digits labels.jsonl",
        "intermodal feedback prices truth.csv --within 0.5",
    ],
)
@click.argument("model")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--request", "request_id", metavar="ID", help="The x-request-id of one request.")
@click.option("--label", metavar="LABEL", help="What its answer should have been.")
@click.option("--output", metavar="NAME", help="The output that labels are of; by default the first of classes.")
@click.option("--within", type=click.FloatRange(min=0), metavar="NUMBER", help="How far a number may be off.")
@to_option
def command(
    session: Session,
    model: str,
    file: Path | None,
    request_id: str | None,
    label: str | None,
    output: str | None,
    within: float | None,
    target: str | None,
) -> Output:
    """Say what answers should have been; wrong ones count in the verdict.

    Labels are joined by request id with what the watcher kept of a rollout, and with the last predictions that the
    servers keep. While a rollout runs, wrong answers of the new revision beyond [deploy.analysis] wrong_ratio send it
    back. Exits with 1 when no request of the labels is known.

    FILE has a line {"request_id": "…", "label": …} for each request, or as .csv the columns request_id and label.
    """
    from intermodal import aftercare
    from intermodal.errors import InputError
    from intermodal.rooms.watch.feedback_file import Labelled, read_labels

    labels: list[Labelled]
    if file is not None and request_id is None and label is None:
        labels = read_labels(file)
    elif file is None and request_id is not None and label is not None:
        labels = [(request_id, label)]
    else:
        raise InputError(
            "labels come from a FILE, or as --request with --label", next=f"intermodal feedback {model} -h"
        )
    found = aftercare.feedback(
        model, labels, host=session.host, events=session.events, target=target, output=output or "", within=within
    )
    rows = [("labels", f"{found.joined} of {found.given} joined with what was predicted")]
    if found.unknown:
        rows.append(
            ("unknown", ", ".join(found.unknown) + (", …" if found.given - found.joined > len(found.unknown) else ""))
        )
    rows += [
        (f"revision {one.revision}", f"{one.wrong} of {one.labelled} wrong ({100 * one.wrong / one.labelled:.3g} %)")
        for one in found.accuracy
    ]
    if found.finding is not None:
        rows.append(("verdict", found.finding.sentence()))
    document = {
        "model": found.model,
        "target": found.target,
        "given": found.given,
        "joined": found.joined,
        "unknown": list(found.unknown),
        "accuracy": [
            {"revision": one.revision, "labelled": one.labelled, "wrong": one.wrong} for one in found.accuracy
        ],
        "evidence": None if found.finding is None else found.finding.evidence,
        "needed": None if found.finding is None else found.finding.needed,
    }
    return session.output(document, table(rows), 0 if found.joined or not found.given else 1)
