"""Making room: everything in the store and the caches of this user that nothing needs and nobody holds.

Takes the store and the host; hands on one report. What may go is decided where it is made: blobs, unpacked layers and
temporary files in `oci.prune`, broken downloads in `fetch.cache`, folders of containers in `engine.runtime`.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from intermodal.engine.runtime import sweep_containers
from intermodal.fetch.cache import sweep_parts
from intermodal.host import Host
from intermodal.host.held import Sweep
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.prune import PruneReport
from intermodal.oci.prune import prune as prune_store


def prune(store: Store, host: Host, *, dry_run: bool = False, keep: Collection[Digest] = ()) -> PruneReport:
    """What was removed, or would be with `dry_run`; images in `keep` stay, named or not.

    Raises:
        StoreError: somebody is building right now, an image is damaged, or something cannot be removed.
        EngineError: the folder of containers is not ours alone.
    """
    sweep = Sweep(dry_run=dry_run)
    sweep_containers(sweep, host)
    report = prune_store(store, keep, sweep, host)
    sweep_parts(sweep, host)
    return replace(report, items=tuple(sweep.items))
