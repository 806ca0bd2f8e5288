"""`intermodal images`: what the local store holds."""

from __future__ import annotations

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make


@make("images", example=["intermodal images", "intermodal images --json"])
def command(session: Session) -> Output:
    """List the images of the local store.

    The store is an OCI image layout in the data folder of this user; images share their layers.
    """
    from intermodal import pipeline

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
