"""The commands beside the corridor: they look at what it made, or offer it to others.

Takes names as the user gave them, hands back values; like `pipeline` it prints nothing and does no I/O of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from intermodal import pipeline
from intermodal.events import SILENT, Events
from intermodal.host import Host

if TYPE_CHECKING:
    from intermodal.diff import Report
    from intermodal.registry.loopback import StoreServer


def serve_store(*, host: Host, events: Events = SILENT, address: str = "127.0.0.1", port: int = 0) -> StoreServer:
    """The local store as a read-only registry that listens at `address`; its `serve` answers until interrupted.

    Raises:
        PortTakenError: somebody listens there.
        InputError: this machine has no such address.
    """
    from intermodal.registry.loopback import StoreServer

    return StoreServer(pipeline.open_store(host), address=address, port=port, events=events)


def diff(before: str, after: str, *, host: Host, events: Events = SILENT) -> Report:
    """What is different between two images: names, digests, `oci:DIR[:TAG]`, or projects, which are built.

    Raises:
        UnknownImageError: one of them is not there.
        StoreError: one of them is damaged.
    """
    from intermodal.diff import diff as compare
    from intermodal.diff import find

    store = pipeline.open_store(host)

    def named(reference: str) -> str:
        if not Path(reference).exists():
            return reference
        return str(pipeline.build(Path(reference), host=host, events=events).digest)

    sides = [find(named(reference), store) for reference in (before, after)]
    return compare(sides[0].called(before), sides[1].called(after), events)
