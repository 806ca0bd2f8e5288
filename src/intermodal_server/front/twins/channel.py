"""The socket between a front and one of its twins: client connections one way, messages both ways, in order.

Takes one end of sequenced packets, hands on messages; an end that closes is told once. A packet is a byte that says
what it is and up to `PIECE_BYTES` of it.

Rules, in order:
1. A message is a line of JSON, and bytes behind it, if there are any: `rest`. It has any length: cut into pieces, sent
   as fast as the other side reads, kept until then.
2. A connection is given only at once: where the other side does not read, the giver keeps it.
3. After `PACKETS_AT_ONCE` other work of the event loop has its turn.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from typing import Any, Callable

PIECE_BYTES = 32 << 10
PACKETS_AT_ONCE = 16
_MORE, _LAST, _CONNECTION = b"+", b".", b"c"
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

OnMessage = Callable[["dict[str, Any]"], None]
OnConnection = Callable[[socket.socket], None]


class Channel:
    """One end; called inside the event loop."""

    def __init__(
        self,
        end: socket.socket,
        on_message: OnMessage,
        on_end: Callable[[], None],
        on_connection: OnConnection = socket.socket.close,
    ) -> None:
        self._end = end
        self._on_message = on_message
        self._on_end = on_end
        self._on_connection = on_connection
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._writing = False
        self._parts: list[bytes] = []
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._read)

    @property
    def open(self) -> bool:
        """Whether there still is another side."""
        return self._end.fileno() >= 0

    @property
    def idle(self) -> bool:
        """Whether everything has been sent."""
        return not self._waiting

    def send(self, kind: str, rest: bytes = b"", **fields: Any) -> None:
        """Send a message as soon as it can be sent; nothing after the end."""
        if not self.open:
            return
        data = json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode()
        if rest:
            data += b"\n" + rest
        for start in range(0, len(data), PIECE_BYTES):
            mark = _MORE if start + PIECE_BYTES < len(data) else _LAST
            self._waiting.append(mark + data[start : start + PIECE_BYTES])
        if not self._writing:
            self._write()

    def give(self, connection: socket.socket) -> bool:
        """Pass a client's connection on; False when it stays with the caller."""
        if self._waiting or not self.open:
            return False
        try:
            socket.send_fds(self._end, [_CONNECTION], [connection.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it, without a word to the owner."""
        if self.open:
            self._loop.remove_reader(self._end.fileno())
            if self._writing:
                self._loop.remove_writer(self._end.fileno())
            self._end.close()
        self._waiting.clear()

    def _ended(self) -> None:
        if self.open:
            self.close()
            self._on_end()

    def _write(self) -> None:
        while self._waiting:
            try:
                self._end.send(self._waiting[0])
            except (BlockingIOError, InterruptedError):
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._end.fileno(), self._write)
                return
            except OSError:
                self._ended()
                return
            self._waiting.popleft()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._end.fileno())

    def _read(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            if not self.open:
                return
            try:
                data, descriptors, _, _ = socket.recv_fds(self._end, PIECE_BYTES + 1, 1, _CLOSE_ON_EXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._ended()
                return
            mark = data[:1]
            if mark == _CONNECTION:
                for descriptor in descriptors:
                    self._on_connection(socket.socket(fileno=descriptor))
                continue
            self._parts.append(data[1:])
            if mark == _LAST:
                line, _, rest = b"".join(self._parts).partition(b"\n")
                self._parts = []
                self._on_message({**json.loads(line), "rest": rest} if rest else json.loads(line))
