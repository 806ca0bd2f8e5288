"""Removing what nothing refers to from a store.

Takes a `Store`, hands on a `PruneReport`. Works only while no build runs (see `layout`, rule 4). What a named image
reaches stays, whatever else happens; an image that lost its tag goes, unless it is in `keep`.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from intermodal.errors import InputError, IntermodalError, StoreError
from intermodal.oci.blob import failure
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import NAME, PruneReport, Store
from intermodal.oci.manifest import MAX_BYTES

_DEPTH_MAX = 4  # index -> manifest -> config, and one more for referrers


def prune(store: Store, keep: Collection[Digest], *, dry_run: bool) -> PruneReport:
    """What was removed from `store`, or would be with `dry_run`."""
    with store.alone():
        listed = store.listed()
        stay = [item for item in listed if NAME in item.annotations or item.digest in keep]
        gone = tuple(item.digest for item in listed if item not in stay)
        reached = _reached(store, stay) | set(keep)
        blobs = removed = 0
        try:
            if gone and not dry_run:
                store.change_index(lambda now: [item for item in now if item.digest not in gone or item in stay])
            for path in [*store.blobs.iterdir(), *(store.root / "tmp").glob("*")]:
                if path.parent == store.blobs and _digest(path.name) in reached:
                    continue
                blobs += 1
                removed += path.stat().st_size
                if not dry_run:
                    path.unlink()
        except OSError as error:
            raise failure("cannot prune the store", store.root, error) from error
    return PruneReport(blobs, removed, gone)


def _reached(store: Store, roots: list[Descriptor]) -> set[Digest]:
    """Every digest that can be reached from `roots`.

    Raises:
        StoreError: a listed document is damaged; nothing has been removed.
    """
    reached: set[Digest] = set()

    def walk(item: Descriptor, depth: int) -> None:
        if item.digest in reached or depth > _DEPTH_MAX:
            return
        reached.add(item.digest)
        if not item.media_type.endswith("+json") or item.size_bytes > MAX_BYTES or not store.has(item.digest):
            return
        _each(store.document(item), depth)

    def _each(value: Any, depth: int) -> None:
        if isinstance(value, dict):
            if "digest" in value and "mediaType" in value and "size" in value:
                with suppress(InputError):
                    walk(
                        Descriptor(str(value["mediaType"]), Digest.parse(str(value["digest"])), int(value["size"])),
                        depth + 1,
                    )
            for inner in value.values():
                _each(inner, depth)
        elif isinstance(value, list):
            for inner in value:
                _each(inner, depth)

    for root in roots:
        try:
            walk(root, 0)
        except IntermodalError as error:
            raise StoreError(
                f"cannot prune: image {root.annotations.get(NAME, root.digest.short)} is damaged",
                found=error.found or error.message,
                next="build it again, or remove its entry from index.json",
            ) from error
    return reached


def _digest(name: str) -> Digest | None:
    try:
        return Digest(name)
    except InputError:
        return None
