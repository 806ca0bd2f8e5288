"""`intermodal images`: what the local store holds."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make

if TYPE_CHECKING:
    from intermodal.oci.validate import Validation


@make("images", example=["intermodal images", "intermodal images --json", "intermodal images --validate"])
@click.option("--validate", is_flag=True, help="Recompute everything the store claims; exit with 1 when it is wrong.")
def command(session: Session, validate: bool) -> Output:
    """List the images of the local store, or recompute everything it claims.

    The store is an OCI image layout in the data folder of this user; images share their layers.

    With --validate, every digest, size, diff id and config is computed anew and all faults are listed at once.
    """
    from intermodal import pipeline

    if validate:
        return _validated(session, pipeline.validate(host=session.host, events=session.events))
    images = pipeline.open_store(session.host).images()
    document = {
        "images": [
            {
                "name": image.name,
                "digest": str(image.digest),
                "compressed_bytes": image.size_bytes,
                "platforms": list(image.platforms),
                "layers": image.layers,
                "former": image.former,
            }
            for image in images
        ]
    }
    if not images:
        return session.output(document, "no images yet\nnext: intermodal ship PATH")
    rows = [("NAME", "DIGEST", "SIZE", "LAYERS", "PLATFORMS")]
    rows += [
        (
            image.name or (f"({image.former}, replaced)" if image.former else "(no name)"),
            image.digest.short,
            size(image.size_bytes),
            str(image.layers),
            " ".join(image.platforms),
        )
        for image in images
    ]
    return session.output(document, table(rows, right=[2, 3]))


def _validated(session: Session, found: Validation) -> Output:
    damaged = sorted({fault.path for fault in found.faults if fault.path})
    advice = [f"rm {shlex.quote(path)}" for path in damaged]
    advice += ["build the images again: what is missing is made anew"] if found.faults else []
    document = {
        "valid": not found.faults,
        "images": found.images,
        "blobs": found.blobs,
        "size_bytes": found.size_bytes,
        "faults": [
            {"where": fault.where, "what": fault.what, "images": list(fault.images), "path": fault.path}
            for fault in found.faults
        ],
        "next": advice,
    }
    counted = f"{_many(found.images, 'image')}, {_many(found.blobs, 'blob')}, {size(found.size_bytes)}"
    if not found.faults:
        return session.output(document, f"valid: {counted}; every digest, size, diff id and config is right")
    spoiled = len({name for fault in found.faults for name in fault.images})
    lines = [f"NOT VALID: {_many(len(found.faults), 'fault')}, {_many(spoiled, 'image')} spoiled ({counted})"]
    lines += [f"  found   {fault}" for fault in found.faults]
    lines += [f"  next    {line}" for line in advice]
    return session.output(document, "\n".join(lines), 1)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")
