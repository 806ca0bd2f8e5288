"""`intermodal pull REF`: an image of a registry into the local store."""

from __future__ import annotations

import click

from intermodal.cli.output import Output, seconds, size, table
from intermodal.cli.session import Session, plain_http_option
from intermodal.cli.session import command as make


@make(
    "pull",
    example=[
        "intermodal pull ghcr.io/team/digits:1.0.0",
        "intermodal pull python:3.12-slim --platform linux/arm64 -t python:arm",
    ],
)
@click.argument("reference", metavar="REF")
@click.option("-t", "--tag", metavar="NAME[:TAG]", default="", help="Name in the local store; default: REF itself.")
@click.option("--platform", metavar="OS/ARCH|all", default="", help="Which image of an index; default: this machine's.")
@plain_http_option
def command(session: Session, reference: str, tag: str, platform: str, plain_http: bool) -> Output:
    """Take an image from a registry into the local store, verified.

    Every digest, size and diff id is computed, and every entry of every layer is looked at, before the image can be
    seen; what breaks its format or its promises is refused. A pull that broke is continued by the next.

    REF is [HOST[:PORT]/]REPOSITORY[:TAG] or …@DIGEST; without a host it is on Docker Hub.
    """
    from intermodal import pipeline

    report = pipeline.pull(
        reference, host=session.host, events=session.events, tag=tag, platform=platform, plain_http=plain_http
    )
    moved = f"{len(report.downloaded)} layers, {size(report.downloaded_bytes)}; {len(report.skipped)} were there"
    rows = [
        ("pulled", f"{report.name}, {seconds(report.seconds)}"),
        ("digest", str(report.digest) + ("" if report.digest == report.top else f" (of {report.top})")),
        ("for", ", ".join(report.platforms) or "no platform"),
        ("fetched", "nothing: it was there" if report.unchanged else moved),
    ]
    return session.output(report.as_json(), table(rows))
