"""The slowest that counts as alive, for bytes in both directions.

Takes pieces on their way, hands them on unchanged, or ends the transfer: a peer that moves one byte now and then
would otherwise pass every time-out of a socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from msgspec import Struct

from intermodal.errors import RegistryUnreachableError

Piece = TypeVar("Piece", bytes, memoryview)


class Speed(Struct, frozen=True):
    """The slowest that counts as alive: `least_bytes` in each window of `window_s` seconds."""

    least_bytes: int = 32 << 10
    window_s: float = 30.0
    now_s: Callable[[], float] = time.monotonic


def keep_pace(pieces: Iterator[Piece], speed: Speed, where: str) -> Iterator[Piece]:
    """`pieces`, as long as they come fast enough.

    Raises:
        RegistryUnreachableError: a window has passed with fewer bytes than it must have.
    """
    began, count = speed.now_s(), 0
    for piece in pieces:
        yield piece
        count += len(piece)
        if (now := speed.now_s()) - began >= speed.window_s:
            if count < speed.least_bytes:
                raise RegistryUnreachableError(
                    f"the transfer of {where} is too slow", found=f"{count} bytes in {now - began:.0f} s"
                )
            began, count = now, 0
