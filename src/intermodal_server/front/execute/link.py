"""The front's end of a connection to one worker.

Takes a socket from the supervisor, hands on outputs for inputs, one batch at a time, by callbacks: a stream or a task
for each request would cost more than the request (figures: docs/architecture/server-execution.md). Whatever breaks
the frame format or ends the connection is `Failure("gone")`; such a link is never used again.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any, Callable, Optional

import orjson

from intermodal_server.frames import PREFIX, FrameError, lengths, pack, parse_header, place
from intermodal_server.front.execute.batcher import Job
from intermodal_server.slab import Slab, SlabError, supported
from intermodal_server.tensors import Buffer, Tensor
from intermodal_server.worker.call import Answer, Failure

READ_BYTES = 256 << 10
ONE_CALL_BYTES = 64 << 10
BUFFERS_MOST = 512  # of one system call


class WorkerLink:
    """A worker that can be asked."""

    def __init__(self, number: int, pid: int, descriptor: int, lost: Callable[[WorkerLink], None]) -> None:
        """A link over a connection that the supervisor sent.

        Args:
            number: of the worker.
            pid: of its process.
            descriptor: of the connection; belongs to the link from now on.
            lost: called when an idle worker closes the connection.
        """
        self.number = number
        self.pid = pid
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._requests: Optional[Slab] = None
        self._answers: Optional[Slab] = None
        self._unsent: list[int] = []  # descriptors that go with the next frame
        if supported():
            with contextlib.suppress(OSError):  # forbidden here, or no descriptors left: the socket will do
                self._requests, self._answers = Slab.create(), Slab.create()
                self._unsent = [self._requests.descriptor, self._answers.descriptor]
        self._outgoing: list[memoryview] = []
        self._received = bytearray()
        self._done: Optional[Callable[[Answer], None]] = None

    # --- asking -------------------------------------------------------------------------------------------------------
    def ask(self, jobs: Sequence[Job], rows: int, done: Callable[[Answer], None]) -> None:
        """Send a batch; `done` gets the worker's outputs, or why there are none."""
        self._done = done
        header: dict[str, Any] = {"ids": [job.exchange.request_id for job in jobs]}
        if self._unsent:
            header["slabs"] = len(self._unsent)
        try:
            slots, inline = place(_merged(jobs, rows), self._requests)
            self._send(pack(header, slots, inline, orjson.dumps))
        except (SlabError, FrameError, MemoryError):  # nothing was sent
            self._loop.call_soon(self._conclude, Failure("input", "the request is too large for this server"))
        except OSError as error:
            self._loop.call_soon(self._fail, str(error))

    def _send(self, buffers: list[Buffer]) -> None:
        size = sum([len(buffer) for buffer in buffers])
        if size <= ONE_CALL_BYTES:
            buffers = [b"".join(buffers)]
        ancillary = []
        if self._unsent:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self._unsent))]
        try:
            if ancillary or len(buffers) > 1:
                sent = self._socket.sendmsg(buffers[:BUFFERS_MOST], ancillary)
            else:
                sent = self._socket.send(buffers[0])
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent:
            self._unsent = []
        if sent < size:
            self._outgoing = _rest(buffers, sent)
            self._loop.add_writer(self._socket.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        buffers, self._outgoing = self._outgoing, []
        self._loop.remove_writer(self._socket.fileno())
        try:
            self._send(list(buffers))
        except OSError as error:
            self._fail(str(error))

    # --- answers ------------------------------------------------------------------------------------------------------
    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(str(error))
            return
        if not data:
            self._fail("it closed the connection")
            return
        if self._received:
            self._received += data
            data = self._received  # type: ignore[assignment]
        try:
            answer = self._parse(data)
        except (FrameError, SlabError) as error:
            self._fail(str(error))
            return
        if answer is None:
            if not self._received:
                self._received += data
            return
        self._received = bytearray()
        self._conclude(answer)

    def _parse(self, data: Buffer) -> Optional[Answer]:
        """The answer in `data`, None while it is not whole."""
        if len(data) < PREFIX.size:
            return None
        header_size, inline = lengths(data)
        begin = PREFIX.size + header_size
        if len(data) < begin + inline:
            return None
        view = memoryview(data)
        header, slots = parse_header(view[PREFIX.size : begin], orjson.loads)
        if len(data) > begin + inline or self._done is None:
            raise FrameError("an answer that nobody asked for")
        outputs = []
        for name, datatype, shape, size, where in slots:
            if where >= 0:
                if self._answers is None:
                    raise FrameError("a tensor in a slab that there is not")
                with self._answers.view(where, size) as part:
                    outputs.append(Tensor(name, datatype, shape, bytes(part)))
            else:
                outputs.append(Tensor(name, datatype, shape, bytes(view[begin : begin + size])))
                begin += size
        if begin != len(data):
            raise FrameError("tensors and bytes do not add up")
        if header.get("another_slab") and self._requests is not None:
            self._requests.close()
            self._requests = None
            with contextlib.suppress(OSError):
                self._requests = Slab.create()
                self._unsent = [self._requests.descriptor]
        for slab in (self._requests, self._answers):
            if slab is not None:
                slab.relax()
        problem = header.get("error")
        if problem is None:
            return outputs
        if not isinstance(problem, dict):
            raise FrameError("an error that is none")
        return Failure("input" if problem.get("kind") == "input" else "model", str(problem.get("message", "")))

    def _conclude(self, answer: Answer) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)

    # --- the end ------------------------------------------------------------------------------------------------------
    def _fail(self, why: str, kind: str = "gone") -> None:
        self.close()
        if self._done is None:
            self._lost(self)
        else:
            self._conclude(Failure(kind, why))

    def give_up(self) -> None:
        """Its time for this batch is over."""
        self._fail("no answer in time", "hung")

    def end(self) -> None:
        """The worker is gone; so is what it worked on."""
        self.close()
        self._conclude(Failure("gone", "it is gone"))

    def close(self) -> None:
        """Give the connection up."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        if self._outgoing:
            self._outgoing = []
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for slab in (self._requests, self._answers):
            if slab is not None:
                slab.close()


def _merged(jobs: Sequence[Job], rows: int) -> list[tuple[str, str, Sequence[int], Sequence[Buffer]]]:
    """The inputs of all jobs as those of one, the data in as many pieces as there are jobs."""
    if len(jobs) == 1:
        return [(t.name, t.datatype, t.shape, (t.data,)) for t in jobs[0].inputs]
    merged: list[tuple[str, str, Sequence[int], Sequence[Buffer]]] = []
    for parts in zip(*[job.inputs for job in jobs]):
        first = parts[0]
        merged.append((first.name, first.datatype, (rows, *first.shape[1:]), [part.data for part in parts]))
    return merged


def _rest(buffers: Sequence[Buffer], sent: int) -> list[memoryview]:
    """What of `buffers` is left after `sent` bytes."""
    rest = []
    for buffer in buffers:
        if sent >= len(buffer):
            sent -= len(buffer)
            continue
        rest.append(memoryview(buffer)[sent:])
        sent = 0
    return rest
