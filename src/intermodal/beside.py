"""The commands beside the corridor: they look at what it made, or offer it to others.

Takes names as the user gave them, hands back values; like `pipeline` it prints nothing and does no I/O of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.pipeline import open_store

if TYPE_CHECKING:
    from intermodal.registry.loopback import StoreServer


def serve_store(*, host: Host, events: Events = SILENT, address: str = "127.0.0.1", port: int = 0) -> StoreServer:
    """The local store as a read-only registry that listens at `address`; its `serve` answers until interrupted.

    Raises:
        PortTakenError: somebody listens there.
        InputError: this machine has no such address.
    """
    from intermodal.registry.loopback import StoreServer

    return StoreServer(open_store(host), address=address, port=port, events=events)
