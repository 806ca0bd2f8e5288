"""`intermodal push IMAGE REF`: an image of the local store into a registry."""

from __future__ import annotations

import click

from intermodal.cli.output import Output, seconds, size, table
from intermodal.cli.session import Session, plain_http_option
from intermodal.cli.session import command as make


@make(
    "push",
    example=[
        "intermodal push digits:1.0.0 ghcr.io/team/digits",
        "intermodal push examples/digits localhost:5000/team/digits:1.0.0 --json",
    ],
)
@click.argument("image")
@click.argument("reference", metavar="REF")
@plain_http_option
def command(session: Session, image: str, reference: str, plain_http: bool) -> Output:
    """Put an image into a registry, sending only what it lacks.

    Blobs go first, the tag last, so that readers see the old image or the new one and nothing between. Everything is
    hashed again on the way. A push that broke is continued by the next.

    IMAGE is NAME[:TAG], a digest, oci:DIR[:TAG], or a project's path (built when needed; an existing path wins over a
    name). REF is HOST[:PORT]/REPOSITORY[:TAG]; without a tag it gets the image's own. The login is Docker's or
    podman's, or that of INTERMODAL_REGISTRY, INTERMODAL_REGISTRY_USERNAME and INTERMODAL_REGISTRY_PASSWORD. Standard
    output carries the reference with its digest.
    """
    from intermodal import pipeline

    report = pipeline.push(image, reference, host=session.host, events=session.events, plain_http=plain_http)
    document = report.as_json()
    rows = [("pushed", report.pinned)]
    if report.unchanged:
        rows.append(("sent", "nothing: the registry has it"))
    else:
        left = f"{len(report.skipped)} were there, {len(report.mounted)} mounted"
        rows.append(("sent", f"{len(report.uploaded)} blobs, {size(report.uploaded_bytes)}; {left}"))
    rows.append(("tag", f"{report.reference}, {seconds(report.seconds)}"))
    return session.output(document, table(rows))
