"""Memory that front and worker both see: a file without a name, mapped by both, used again for every request.

Takes descriptors, hands on views. A tensor that goes through it is copied once by each side at most, where a socket
copies it twice and wakes the reader every 200 KB; a fresh file for each tensor would cost more than the socket
(figures: docs/architecture/server-execution.md).

Rules, in order: whoever is given the descriptor cannot shrink the file (it is sealed), so a mapped page can never
vanish; it grows when more is needed and never more than `MAX_BYTES`; what is left of a rare giant is given back.
"""

from __future__ import annotations

import fcntl
import mmap
import os

MAX_BYTES = 8 << 30
KEPT_BYTES = 16 << 20  # more than that is returned to the system after use
ALIGNMENT = 64


def supported() -> bool:
    """Whether this system has such memory."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


class SlabError(OSError):
    """There is no memory of that size, or the other side said something that cannot be."""


def aligned(size: int) -> int:
    """The next place where a tensor may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Slab:
    """One side's view of the memory; the one side writes it, the other reads it, in turns."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._size = 0
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> Slab:
        """New and empty."""
        descriptor = os.memfd_create("intermodal-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return cls(descriptor)

    def reserve(self, size: int) -> None:
        """Make it at least `size` bytes large.

        Raises:
            SlabError: there is not so much memory.
        """
        if size <= self._size:
            return
        if size > MAX_BYTES:
            raise SlabError(f"{size} bytes of shared memory are too many")
        wanted = max(aligned(size), min(2 * self._size, KEPT_BYTES), 1 << 20)
        try:
            if os.fstat(self.descriptor).st_size < wanted:
                os.ftruncate(self.descriptor, wanted)
        except OSError as error:
            raise SlabError(f"shared memory cannot grow to {wanted} bytes: {error.strerror}") from error
        self._remap(wanted)

    def view(self, begin: int, size: int) -> memoryview:
        """`size` bytes from `begin`, which the other side has reserved.

        Raises:
            SlabError: it has not.
        """
        end = begin + size
        if begin < 0 or size < 0:
            raise SlabError("a place before the beginning")
        if end > self._size or self._map is None:
            there = os.fstat(self.descriptor).st_size
            if end > there:
                raise SlabError(f"{end} bytes were promised, {there} are there")
            self._remap(there)
        assert self._map is not None
        return memoryview(self._map)[begin:end]

    def kept(self) -> bool:
        """Whether somebody still holds a view; one's own must be released before."""
        if self._map is None:
            return False
        try:
            self._map.resize(self._size)  # to what it is: all that it does is to refuse while there are views
        except BufferError:
            return True
        return False

    def _remap(self, size: int) -> None:
        try:
            self._map = mmap.mmap(self.descriptor, size)  # views of the old one keep it alive
        except (OSError, ValueError) as error:
            raise SlabError(f"shared memory of {size} bytes cannot be mapped: {error}") from error
        self._size = size

    def relax(self) -> None:
        """Give back what only a giant needed."""
        if self._size > 2 * KEPT_BYTES and self._map is not None and hasattr(mmap, "MADV_REMOVE"):
            self._map.madvise(mmap.MADV_REMOVE, KEPT_BYTES, self._size - KEPT_BYTES)

    def close(self) -> None:
        """Let go of it; views stay good."""
        self._map = None
        self._size = 0
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
