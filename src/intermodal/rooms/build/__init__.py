"""build: from a lock to an image in the local store.

Takes a `Lock`, the `ModelCard` and the `Project` from the left; hands an `Image` to check on the right. Needs no
daemon, no root and no Dockerfile, and runs nothing of what it packs but the base's own Python, to compile byte code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal.events import SILENT, Events
from intermodal.oci.image import Image

if TYPE_CHECKING:
    from intermodal.host import Host
    from intermodal.oci.layout import Store
    from intermodal.project.value import Project
    from intermodal.rooms.inspect.card import ModelCard
    from intermodal.rooms.lock.rows import Lock

__all__ = ["Image", "build"]


def build(lock: Lock, card: ModelCard, project: Project, *, store: Store, host: Host, events: Events = SILENT) -> Image:
    """The image of a locked project, tagged `name:version` in the store; equal inputs give an equal digest.

    Args:
        lock: every byte that goes in, by hash.
        card: what the model is.
        project: its name, version and serving settings.
        store: opened; layers that it has are not made again.
        host: this machine: cores, caches, index configuration.
        events: told what is fetched and written.

    Raises:
        PackageFileError, UnsafePathError, DuplicatePathError: a package is damaged, hostile, or collides with another.
        DriftError: a file changed after it was locked.
        SecretFoundError: a file of the application looks like a secret.
        DownloadError, IndexUnreachableError: a package cannot be had.
        StoreError: disk full or no permission; the store is as it was.
        EngineError, HostError: byte code is wanted and cannot be compiled here.
    """
    from intermodal.rooms.build.assemble import Assembly

    return Assembly(lock, card, project, store, host, events).image()
