"""`intermodal prune`: the local store without what nothing needs."""

from __future__ import annotations

import click

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make

KINDS = {"blob": "blobs", "temporary": "temporary_files", "tree": "unpacked_trees", "container": "container_folders"}


@make("prune", example=["intermodal prune --dry-run", "intermodal prune"])
@click.option("--dry-run", is_flag=True, help="Delete nothing; only say what would go.")
def command(session: Session, dry_run: bool) -> Output:
    """Delete what no image of the local store needs.

    Images without a name, layers that no named image uses, their unpacked trees, and what killed processes left:
    temporary files, broken downloads, folders of containers. What is deployed, or was before that, stays. Waits for no
    build: it refuses while one is running.
    """
    from intermodal import pipeline
    from intermodal.deployed import protected
    from intermodal.engine.prune import prune

    keep = protected(host=session.host)
    report = prune(pipeline.open_store(session.host), session.host, dry_run=dry_run, keep=keep)
    counts = {words: report.count(kind) for kind, words in KINDS.items()}
    document: dict[str, object] = {
        **counts,
        "freed_bytes": report.bytes,
        "images": [str(digest) for digest in report.images],
        "dry_run": dry_run,
    }
    if report.in_use:
        session.events.notice("unpacked layers were left alone: a container or a build is using them")
    if not report.items and not report.images:
        return session.output(document, "nothing to delete")
    listed = [f"{len(report.images)} images without a name"] if report.images else []
    listed += [f"{count} {words.replace('_', ' ')}" for words, count in counts.items() if count]
    text = f"{'would free' if dry_run else 'freed'} {size(report.bytes)}: {', '.join(listed)}"
    lines = [(item.kind, size(item.bytes), str(item.path)) for item in report.items] if dry_run else []
    return session.output(document, "\n".join([text, *([table(lines, right=[1])] if lines else [])]))
