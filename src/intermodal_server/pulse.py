"""A page of memory that the supervisor and one child share: how many good answers the child has given.

Takes a descriptor, hands on a number. It survives a child that ends without a word, which messages do not: by it the
supervisor tells a model that died at once from one that died after a thousand answers.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

SIZE_BYTES = 4096
_COUNT = struct.Struct("<Q")


def new_page() -> int:
    """The descriptor of a fresh page; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("intermodal-pulse")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, SIZE_BYTES)
    return descriptor


class Pulse:
    """The page, mapped; one process adds, another reads."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, SIZE_BYTES)
        self._answers = 0

    def answered(self, count: int = 1) -> None:
        """Count good answers of this process."""
        self._answers += count
        _COUNT.pack_into(self._page, 0, self._answers)

    @property
    def answers(self) -> int:
        """Good answers so far, as the other side sees them."""
        return int(_COUNT.unpack_from(self._page, 0)[0])

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()
