"""The lock that `build` and `ship` work from: the one that exists, refreshed, or a new one.

Takes a card and a project; hands on the lock and one word about where it came from.

Rules, in order:
1. No lock: make one and write it.
2. A lock that was made for other requirements, another server or another layout is refused, because dependency, base
   and server rows change by `intermodal lock` alone. Only the lock that the local store keeps for a bare artifact,
   which no person has under version control, is made again.
3. Model, application and golden rows follow the files, and what changed is said.
4. A lock that contradicts the artifact stops everything.
"""

from __future__ import annotations

from intermodal.errors import DriftError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.project.value import Project
from intermodal.rooms.inspect.card import ModelCard
from intermodal.rooms.lock.drift import asked_differently, contradictions, outdated, refresh
from intermodal.rooms.lock.lockfile import read_lock, write_lock
from intermodal.rooms.lock.rows import Lock


def obtain(
    card: ModelCard, project: Project, *, host: Host, events: Events = SILENT, keyring: bytes | None = None
) -> tuple[Lock, str]:
    """The lock of a project, and "kept", "refreshed: …" or "made".

    Raises:
        DriftError: the project asks for something else than its lock holds.
        ContradictionError: the artifact was made with other versions than the lock holds.
        InputError: the lock cannot be read, or a new one cannot be resolved.
        HostError: an index or the disk.
    """
    if not project.lock_path.exists():
        return _made(card, project, host, events, keyring), "made"
    lock, changes = refresh(read_lock(project.lock_path), card, project, events=events)
    stale = (*asked_differently(lock, card, project), *outdated(lock))
    if stale and project.file is None and project.lock_path.is_relative_to(host.data_dir):
        return _made(card, project, host, events, keyring), "made"
    contradictions(lock, card)
    if stale:
        raise DriftError(
            f"{project.lock_path.name} no longer describes the project",
            found=stale,
            next=f"intermodal lock {project.root}",
        )
    if changes:
        write_lock(lock, project.lock_path)
    return lock, f"refreshed: {'; '.join(changes)}" if changes else "kept"


def _made(card: ModelCard, project: Project, host: Host, events: Events, keyring: bytes | None) -> Lock:
    from intermodal.rooms.lock.making import make

    lock = make(card, project, host=host, events=events, keyring=keyring)
    write_lock(lock, project.lock_path)
    return lock
