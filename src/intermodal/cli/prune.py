"""`intermodal prune`: the local store without what nothing needs."""

from __future__ import annotations

import click

from intermodal.cli.output import Output, size
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("prune", example=["intermodal prune --dry-run", "intermodal prune"])
@click.option("--dry-run", is_flag=True, help="Delete nothing; only say what would go.")
def command(session: Session, dry_run: bool) -> Output:
    """Delete what no image of the local store needs.

    Images without a name and layers that no named image uses. Waits for no build: it refuses while one is running.
    """
    from intermodal import pipeline

    report = pipeline.open_store(session.host).prune(dry_run=dry_run)
    document: dict[str, object] = {
        "blobs": report.blobs,
        "freed_bytes": report.bytes,
        "images": [str(digest) for digest in report.images],
        "dry_run": dry_run,
    }
    verb = "would free" if dry_run else "freed"
    text = f"{verb} {size(report.bytes)}: {report.blobs} blobs, {len(report.images)} images without a name"
    return session.output(document, text if report.blobs or report.images else "nothing to delete")
