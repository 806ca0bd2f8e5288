"""The second room: exactly which base, Debian packages, wheels, server and model bytes, by hash.

Takes a `ModelCard` from `inspect` and the project; hands a `Lock` to `build`.

    resolve the base (debian/) -> resolve model and server packages (uv) -> hash the files -> compare with the artifact

`obtain` is what `build` and `ship` call: the lock that exists, its file rows refreshed, or a new one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from intermodal.events import SILENT, Events
from intermodal.rooms.lock.rows import Lock

if TYPE_CHECKING:
    from intermodal.host import Host
    from intermodal.project.value import Project
    from intermodal.rooms.inspect.card import ModelCard

__all__ = ["Lock", "lock"]


def lock(
    card: ModelCard,
    project: Project,
    *,
    host: Host,
    events: Events = SILENT,
    upgrade: Collection[str] | None = None,
    no_urls: bool = False,
    allow_build: bool = False,
    keyring: bytes | None = None,
) -> Lock:
    """A hash for every byte that will enter the image.

    Args:
        card: what `inspect` found; its evidence pins what the project does not.
        project: requirements, base, platforms and files.
        host: whose indexes, mirrors and caches count.
        events: told while indexes are read and requirements resolved.
        upgrade: None keeps the versions and base of an existing lock where they still fit; an empty collection
            takes the newest of everything; names take the newest of these alone.
        no_urls: leave addresses out, the form of locks that are committed; each machine looks files up by hash.
        allow_build: turn source distributions into wheels first.
        keyring: for tests with an archive of their own; None takes the shipped Debian keyring.

    Returns:
        The lock, not yet written; `lockfile.write_lock` does that.

    Raises:
        RequirementError: unsatisfiable, source only, unknown name, or another Python than the base's.
        ContradictionError: the artifact was made with other versions than were resolved.
        IndexUnreachableError: a package index or Debian mirror did not answer.
    """
    from intermodal.rooms.lock.making import make

    return make(
        card,
        project,
        host=host,
        events=events,
        upgrade=upgrade,
        no_urls=no_urls,
        allow_build=allow_build,
        keyring=keyring,
    )
