"""Connections when there are too many, or when they are about to end.

Takes connections, hands on nothing; a connection that waits for its client gives way to a new one, never one whose
request is being answered.
"""

from __future__ import annotations

import array
import fcntl
import termios
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from intermodal_server.front.limits import MAX_REQUESTS_PER_CONNECTION

if TYPE_CHECKING:
    from intermodal_server.front.protocol import Connection

SHARE = 32  # of so many connections one ends when there are too many: looking for them must be rare


def make_room(connections: Iterable[Connection], newest: Connection) -> bool:
    """End some that wait for their clients, those never answered first, then the longest; whether there were any."""
    others = [one for one in connections if one is not newest]
    waiting = [
        (one.answered, since_s, number, one)
        for number, one in enumerate(others)
        if (since_s := one.waits_since_s) is not None
    ]
    for *_, one in sorted(waiting)[: max(1, len(others) // SHARE)]:
        one.transport.abort()
    return bool(waiting)


def send_elsewhere(connections: Iterable[Connection], count: int) -> None:
    """Have the next answer of so many be their last: their clients come again, and another process may take them."""
    staying = (one for one in connections if one.reader.requests < MAX_REQUESTS_PER_CONNECTION)
    for one in islice(staying, max(0, count)):
        one.reader.requests = MAX_REQUESTS_PER_CONNECTION


def has_unread(transport: Any) -> bool:
    """Whether bytes have come that nobody has looked at: of a request that was on its way."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
    except (OSError, AttributeError):
        return False
    return count[0] > 0
