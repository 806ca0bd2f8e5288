"""Write an image of the store as an OCI image layout of its own, into a folder that may hold others already.

Takes a `Store` and a destination "oci:DIR[:tag]"; leaves a layout that skopeo, podman, crane and umoci read. Blobs that
the folder has already are not copied again; `index.json` is replaced last, so readers never see half an image.

Spec: OCI image-spec 1.1, "OCI Image Layout".
"""

from __future__ import annotations

from pathlib import Path

from intermodal.errors import InputError
from intermodal.host.held import Sweep
from intermodal.oci.descriptor import INDEXES, Descriptor
from intermodal.oci.digest import CHUNK_BYTES
from intermodal.oci.layout import Store
from intermodal.oci.manifest import parse_descriptor


def export(store: Store, image: Descriptor, destination: str, *, name: str) -> Path:
    """The folder that now holds `image`, listed under the destination's tag or else `name`.

    Args:
        store: where the image lies.
        image: its manifest or index.
        destination: "oci:DIR" or "oci:DIR:tag"; the folder is made when it is missing.
        name: what the layout calls the image when the destination has no tag ("digits:1.0.0").

    Raises:
        InputError: another kind of destination.
        StoreError: the folder cannot be written, or a blob is not what its name says.
    """
    kind, _, rest = destination.partition(":")
    if kind != "oci" or not rest:
        raise InputError(f"cannot write to {destination!r}", found=f"kind {kind!r}", next="-o oci:DIR or oci:DIR:TAG")
    folder, _, tag = rest.partition(":")
    target = Store(Path(folder)).open_or_create()
    Sweep(dry_run=False).abandoned("temporary", target.root / "tmp")  # of an export that was killed
    with target.session():
        _copy(store, target, image)
        target.tag(tag or name, image)
    return target.root


def _copy(source: Store, target: Store, item: Descriptor) -> None:
    """Copy what `item` points at, then `item` itself: a document never stands before what it names."""
    document = source.document(item)
    for inner in document["manifests"] if item.media_type in INDEXES else ():
        _copy(source, target, parse_descriptor(inner))
    if item.media_type not in INDEXES:
        for blob in (document["config"], *document["layers"]):
            _copy_blob(source, target, parse_descriptor(blob))
    _copy_blob(source, target, item)


def _copy_blob(source: Store, target: Store, item: Descriptor) -> None:
    if target.has(item.digest):
        return
    with source.path(item.digest).open("rb") as stream, target.writer() as writer:
        while chunk := stream.read(CHUNK_BYTES):
            writer.write(chunk)
        writer.commit(expected=item.digest)
