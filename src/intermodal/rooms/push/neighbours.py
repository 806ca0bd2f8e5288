"""Which repository of a registry got which blob from here, so that the next one can mount it instead of sending it.

Takes digests, hands on a repository's name or "". A memory, not an authority: when the neighbour no longer has the
blob, the registry says so and the blob is sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.registry.client import Repository

MOST = 4000


class Neighbours:
    """The memory for one registry, seen from one repository."""

    def __init__(self, store: Store, repository: Repository) -> None:
        self._store, self._own = store, repository.name
        self._key = f"pushed:{repository.transport.settings.name}"
        known = (store.get_report(self._key) or {}).get("blobs")
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def of(self, digest: Digest) -> str:
        """Another repository that has the blob, or ""."""
        found = self._known.get(digest.hex, "")
        return found if isinstance(found, str) and found != self._own else ""

    def remember(self, digests: Iterable[Digest]) -> None:
        """Note that this repository has them."""
        fresh = {digest.hex: self._own for digest in digests}
        if all(self._known.get(key) == self._own for key in fresh):
            return
        kept = {key: name for key, name in self._known.items() if key not in fresh}
        room = max(0, MOST - len(fresh))
        self._store.put_report(self._key, {"blobs": dict(list(kept.items())[-room:] if room else []) | fresh})
