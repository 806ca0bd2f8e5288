"""The worker's end of a connection to the front: blocking, one frame in, one frame out.

Takes a socket, hands on headers and tensors. Tensors that came through the slab are views of it: nothing is copied.
When the model keeps one (a cache of its last input, say), the slab is left to it and the front is asked for another;
from then on this model gets copies.
"""

from __future__ import annotations

import array
import gc
import socket
from collections.abc import Sequence
from typing import Any, Optional

from intermodal_server.frames import PREFIX, FrameError, lengths, pack, parse_header, place
from intermodal_server.slab import Slab, SlabError
from intermodal_server.tensors import Tensor

_ANCILLARY = socket.CMSG_SPACE(2 * array.array("i").itemsize) if hasattr(socket, "CMSG_SPACE") else 0
ONE_CALL_BYTES = 1 << 16


class Channel:
    """One connection; belongs to whoever made it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._requests: Optional[Slab] = None
        self._answers: Optional[Slab] = None
        self._views: list[memoryview] = []
        self._copies = False  # the model keeps views, so it gets copies

    # --- in -----------------------------------------------------------------------------------------------------------
    def receive(self) -> Optional[tuple[dict[str, Any], list[Tensor]]]:
        """The next frame, or None when the other side has closed.

        Raises:
            FrameError: not a frame.
        """
        prefix, ancillary, _, _ = self._connection.recvmsg(PREFIX.size, _ANCILLARY)
        if not prefix:
            return None
        while len(prefix) < PREFIX.size:
            more = self._connection.recv(PREFIX.size - len(prefix))
            if not more:
                return None
            prefix += more
        header_size, inline = lengths(prefix)
        data = self._exactly(header_size + inline)
        if data is None:
            return None
        header, slots = parse_header(bytes(data[:header_size]))
        self._take_slabs(header, ancillary)
        tensors, begin = [], header_size
        for name, datatype, shape, size, where in slots:
            if where >= 0:
                tensors.append(Tensor(name, datatype, shape, self._shared(where, size)))
                continue
            end = begin + size
            if end > len(data):
                raise FrameError("a tensor ends behind its frame")
            tensors.append(Tensor(name, datatype, shape, data[begin:end]))
            begin = end
        return header, tensors

    def _exactly(self, size: int) -> Optional[memoryview]:
        view, filled = memoryview(bytearray(size)), 0
        while filled < size:
            count = self._connection.recv_into(view[filled:])
            if count == 0:
                return None
            filled += count
        return view

    def _take_slabs(self, header: dict[str, Any], ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        count = header.pop("slabs", 0)
        if count != len(descriptors):
            raise FrameError(f"a frame with {len(descriptors)} descriptors where {count!r} were promised")
        if descriptors:
            if self._requests is not None:
                self._requests.close()
            self._requests = Slab(descriptors[0])
        if len(descriptors) > 1:
            if self._answers is not None:
                self._answers.close()
            self._answers = Slab(descriptors[1])

    def _shared(self, begin: int, size: int) -> memoryview:
        if self._requests is None:
            raise FrameError("a tensor in a slab that was never sent")
        try:
            view = self._requests.view(begin, size)
        except SlabError as error:
            raise FrameError(str(error)) from error
        if self._copies:
            return memoryview(bytearray(view))
        self._views.append(view)
        return view

    # --- out ----------------------------------------------------------------------------------------------------------
    def send(self, header: dict[str, Any], outputs: list[Tensor]) -> bool:
        """Write one frame; False when the model has kept a view of its inputs.

        Args:
            header: of the frame.
            outputs: emptied, because they may be views of the inputs, which have to be let go before the front reads.

        Raises:
            SlabError: the outputs do not fit into memory.
            FrameError: they are too large.
        """
        slots, inline = place([(t.name, t.datatype, t.shape, (t.data,)) for t in outputs], self._answers)
        data = b"".join(inline)
        outputs.clear()
        del inline
        released = self._let_go()
        if not released:
            self._copies = True
            header["another_slab"] = True
        buffers = pack(header, slots, [data])
        if len(data) <= ONE_CALL_BYTES:
            self._connection.sendall(b"".join(buffers))  # one system call wakes the reader once
        else:
            for buffer in buffers:
                self._connection.sendall(buffer)
        return released

    def _let_go(self) -> bool:
        if not self._views or self._requests is None:
            return True
        for view in self._views:
            view.release()
        self._views.clear()
        if self._requests.kept():
            gc.collect()  # an exception's frames, perhaps
            return not self._requests.kept()
        return True

    def close(self) -> None:
        """Let go of the slabs; the socket is the caller's."""
        for slab in (self._requests, self._answers):
            if slab is not None:
                slab.close()
