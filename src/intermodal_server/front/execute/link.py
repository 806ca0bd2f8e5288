"""The front's end of a connection to one worker.

Takes a socket from the supervisor, hands on outputs for inputs, one request at a time. Whatever breaks the frame format
or ends the connection is `WorkerGone`; such a link is never used again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from intermodal_server.frames import FrameError, header_length, pack, parse_header
from intermodal_server.tensors import Tensor

READ_LIMIT_BYTES = 1 << 20


class WorkerGone(Exception):
    """The worker died or cannot be understood; the supervisor replaces it."""


class WorkerError(Exception):
    """The worker answered with an error: `kind` is "input" (`message` is for the client) or "model"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class WorkerLink:
    """A worker that can be asked."""

    def __init__(self, number: int, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self.given_up = False
        self.done = asyncio.Event()  # set when it answers nobody any more

    @classmethod
    async def open(cls, number: int, pid: int, descriptor: int) -> WorkerLink:
        """The link over a connection that the supervisor sent."""
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=READ_LIMIT_BYTES)
        return cls(number, pid, reader, writer)

    @property
    def alive(self) -> bool:
        """False as soon as the other end is known to be closed."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def ask(self, request_id: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The worker's outputs.

        Raises:
            WorkerError: it refused or failed, and is fit for the next request.
            WorkerGone: it is not.
        """
        try:
            self._writer.writelines(pack({"id": request_id}, inputs))
            await self._writer.drain()
            size = header_length(await self._reader.readexactly(4))
            header, slots = parse_header(await self._reader.readexactly(size))
            outputs = []
            for name, datatype, shape, length in slots:
                outputs.append(Tensor(name, datatype, shape, await self._reader.readexactly(length)))
        except (OSError, asyncio.IncompleteReadError, FrameError) as error:
            raise WorkerGone(str(error)) from error
        if header.get("id") != request_id:
            raise WorkerGone("an answer to another request")
        problem = header.get("error")
        if problem is not None:
            raise WorkerError(str(problem.get("kind", "model")), str(problem.get("message", "")))
        return outputs

    def give_up(self) -> None:
        """Make the `ask` that runs now fail: its time is over."""
        self.given_up = True
        self._writer.transport.abort()

    def close(self) -> None:
        """Give the connection up."""
        self._writer.close()
