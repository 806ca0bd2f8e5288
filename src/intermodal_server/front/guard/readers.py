"""Clients that do not read their answers: looked at every second, and ended when they hold memory for too long.

Takes the connections and the time, hands on nothing.

Rules, in order:
1. Of an answer that has not left this process at least 16 KiB/s must leave in every `slow_s`; else its connection is
   aborted, so that nothing of it is kept. What a keep-alive time-out or a drain has closed already is looked at as
   well: closing waits for the client.
2. When all such answers together are more than `MAX_UNREAD_BYTES`, those that have waited longest go first.
3. A connection without an unread answer costs one look at a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from intermodal_server.front.limits import SLOWEST_BYTES_PER_S

if TYPE_CHECKING:
    from intermodal_server.front.protocol import Connection

MAX_UNREAD_BYTES = 256 << 20


class Unread(NamedTuple):
    """Answers that wait on one connection."""

    since_s: float
    window_s: float  # when the present `slow_s` began
    taken: int  # bytes that have left since then
    left: int


class Readers:
    """Who is reading too slowly; one for the life of the front."""

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self._known: dict[Connection, Unread] = {}

    def look(self, connections: Iterable[Connection], now_s: float) -> int:
        """How many connections were aborted.

        Args:
            connections: of the server; one that is ended may leave the collection meanwhile.
            now_s: of a clock that only goes forward.
        """
        known: dict[Connection, Unread] = {}
        held = ended = 0
        for connection in list(connections):
            left = connection.transport.get_write_buffer_size()
            if not left:
                continue
            unread = self._still(self._known.get(connection), left, now_s)
            if unread is None:
                connection.transport.abort()
                ended += 1
            else:
                known[connection] = unread
                held += left
        if held > MAX_UNREAD_BYTES:
            for connection in sorted(known, key=lambda one: known[one].since_s):
                connection.transport.abort()
                held -= known.pop(connection).left
                ended += 1
                if held <= MAX_UNREAD_BYTES:
                    break
        self._known = known
        return ended

    def _still(self, before: Unread | None, left: int, now_s: float) -> Unread | None:
        """What is known of a connection now; None when its client is too slow."""
        if before is None:
            return Unread(now_s, now_s, 0, left)
        taken = before.taken + max(0, before.left - left)
        if now_s - before.window_s < self._slow_s:
            return Unread(before.since_s, before.window_s, taken, left)
        if taken < SLOWEST_BYTES_PER_S * self._slow_s:
            return None
        return Unread(before.since_s, now_s, 0, left)
