"""A built image in the form that others read: an OCI layout, or the archive of `docker load`."""

from __future__ import annotations

from pathlib import Path

from intermodal.host import Host
from intermodal.oci.image import Image
from intermodal.oci.layout import Store


def write_out(image: Image, destination: str, store: Store, host: Host) -> None:
    """Write `image` to "oci:DIR[:tag]" or "docker-archive:FILE".

    Raises:
        InputError: another kind of destination.
        StoreError: it cannot be written.
    """
    kind, _, file = destination.partition(":")
    if kind == "docker-archive" and file:
        from intermodal.engine.archive import write_archive

        manifest = store.manifest_for(image.descriptor, host.platform)
        write_archive(store, manifest, image.name, Path(file))
    else:
        from intermodal.oci.export import export

        export(store, image.descriptor, destination, name=image.name)
