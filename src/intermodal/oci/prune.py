"""Removing what nothing refers to: from a store, and from the cache what was made for its images.

Takes a `Store`, hands on a `PruneReport`.

Rules, in order:
1. It works only while no build runs (see `layout`, rule 4), and holds the store for itself from the first look to the
   last removal.
2. What a named image reaches stays, whatever else happens; an image that lost its tag goes, unless it is in `keep`,
   and then it stays whole, listed or not.
3. Temporary files and folders go when no living process holds them.
4. Unpacked layers and merged trees go when no image that stays has those layers, unless anything is using the cache's
   folders just now; they can be made again at any time.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from intermodal.errors import InputError, IntermodalError, StoreError
from intermodal.host import Host
from intermodal.host.files import failure
from intermodal.host.held import Removed, Sweep
from intermodal.oci.descriptor import CONFIGS, MANIFEST, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.folder_once import sweep_folders
from intermodal.oci.layout import NAME, Store
from intermodal.oci.manifest import MAX_BYTES
from intermodal.oci.partial import FOLDER as PARTIAL

_DEPTH_MAX = 4  # index -> manifest -> config, and one more for referrers
TREES = ("rootfs", "merged")  # below the cache folder; see `unpack` and `engine.rootfs`


class PruneReport(Struct, frozen=True):
    """What `prune` removed, or would remove."""

    items: tuple[Removed, ...]
    images: tuple[Digest, ...]  # without a name, no longer listed
    in_use: bool = False  # the cache's folders were, so none of them was looked at

    def count(self, kind: str) -> int:
        """How many things of one kind: "blob", "temporary", "tree" or "container"."""
        return sum(item.kind == kind for item in self.items)

    @property
    def bytes(self) -> int:
        """How much room there is more."""
        return sum(item.bytes for item in self.items)


def prune(store: Store, keep: Collection[Digest], sweep: Sweep, host: Host | None = None) -> PruneReport:
    """What `sweep` removed from `store`, and with `host` also from its cache.

    Args:
        store: nobody may be building in it.
        keep: images or manifests that somebody needs although they have no name, revisions that are deployed above all.
        sweep: removes, or only notes.
        host: of the cache.

    Raises:
        StoreError: somebody is building right now, an image is damaged, or something cannot be removed.
    """
    with store.alone():
        listed = store.listed()
        stay = [item for item in listed if NAME in item.annotations or item.digest in keep]
        unlisted = set(keep) - {item.digest for item in stay}
        stay += [Descriptor(MANIFEST, one, store.path(one).stat().st_size) for one in unlisted if store.has(one)]
        gone = tuple(item.digest for item in listed if item not in stay)
        reached, diff_ids = _reached(store, stay)
        reached |= set(keep)
        in_use = False
        try:
            if gone and not sweep.dry_run:
                store.change_index(lambda now: [item for item in now if item.digest not in gone or item in stay])
            sweep.abandoned("temporary", store.root / "tmp")
            sweep.abandoned("temporary", store.root / PARTIAL)
            for path in sorted(store.blobs.iterdir()):
                if _digest(path.name) not in reached:
                    sweep.remove("blob", path)
            if host is not None:
                sweep.abandoned("temporary", host.temporary_dir)
                sweep.abandoned("temporary", host.cache_dir / "indexes", ".")
                trees = [host.cache_dir / name for name in TREES]
                in_use = not sweep_folders(sweep, host.cache_dir, trees, diff_ids)
        except OSError as error:
            raise failure("cannot prune", Path(error.filename or store.root), error) from error
    return PruneReport(tuple(sweep.items), gone, in_use)


def _reached(store: Store, roots: list[Descriptor]) -> tuple[set[Digest], set[str]]:
    """Every digest that can be reached from `roots`, and the diff ids that configs among them name.

    Raises:
        StoreError: a listed document is damaged; nothing has been removed.
    """
    reached: set[Digest] = set()
    diff_ids: set[str] = set()

    def walk(item: Descriptor, depth: int) -> None:
        if item.digest in reached or depth > _DEPTH_MAX:
            return
        reached.add(item.digest)
        if not item.media_type.endswith("+json") or item.size_bytes > MAX_BYTES or not store.has(item.digest):
            return
        document = store.document(item)
        if item.media_type in CONFIGS and isinstance(found := document.get("rootfs"), dict):
            named = found.get("diff_ids")
            diff_ids.update(str(one).removeprefix("sha256:") for one in (named if isinstance(named, list) else ()))
        _each(document, depth)

    def _each(value: Any, depth: int) -> None:
        if isinstance(value, dict):
            if "digest" in value and "mediaType" in value and "size" in value:
                with suppress(InputError, TypeError, ValueError, OverflowError):  # no descriptor
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
    return reached, diff_ids


def _digest(name: str) -> Digest | None:
    try:
        return Digest(name)
    except InputError:
        return None
