"""From a TCP port on loopback to a Unix socket: how a container without network is reached.

Takes the path of a socket, hands on an open port. One thread serves all connections with `selectors`; each direction
has a bounded buffer, so a slow reader slows its writer and nothing else; a half-closed connection stays half-closed.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from intermodal.engine.runtime import connect_unix
from intermodal.errors import PortTakenError

_BUFFER_BYTES = 1 << 18
_RETRY_S = 0.01
LOOPBACK = "127.0.0.1"


class Forwarder:
    """An open port; `start` begins to serve it, `close` ends all connections.

    Args:
        port: to listen on at 127.0.0.1; 0 takes any free one.
        option: of the command line that says another port.

    Raises:
        PortTakenError: somebody listens there.
    """

    def __init__(self, port: int, option: str = "--port") -> None:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((LOOPBACK, port))
            self._listener.listen(1024)
        except (OSError, OverflowError) as error:
            self._listener.close()
            raise PortTakenError(
                f"cannot listen on {LOOPBACK}:{port}",
                found=_who_listens(port) or (getattr(error, "strerror", "") or str(error)),
                next=f"choose another port: {option} {port + 1 if 0 < port < 65535 else 8081}",
            ) from error
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._links: set[_Link] = set()
        self._waiting: deque[socket.socket] = deque()  # for room in the queue inside
        self._thread: threading.Thread | None = None

    def start(self, target: Path) -> None:
        """Forward connections to the Unix socket `target`, which may appear later."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, args=(target,), name=f"forward-{self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop all connections; safe to call twice."""
        if self._thread is not None:
            self._wake.send(b"x")
            self._thread.join()
            self._thread = None
        for link in list(self._links):
            link.close()
        for end in (self._listener, self._wake, self._woken, *self._waiting):
            end.close()
        self._selector.close()

    def _serve(self, target: Path) -> None:
        while True:
            for key, mask in self._selector.select(_RETRY_S if self._waiting else None):
                if key.data is None:
                    return
                handler: Callable[[int], None] = key.data
                handler(mask)
            self._connect(target)

    def _accept(self, _: int) -> None:
        """Take one connection from outside."""
        try:
            outside, _address = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # gone before we came
            return
        except OSError:  # no descriptors left: those in use will end
            time.sleep(_RETRY_S)
            return
        self._waiting.append(outside)

    def _connect(self, target: Path) -> None:
        """Join those who wait with the inside, in their order, as far as its queue takes them."""
        while self._waiting:
            outside = self._waiting[0]
            try:
                inside = connect_unix(target, 0)
            except BlockingIOError:
                return
            except OSError:  # nobody listens yet: the caller sees a closed connection and tries again
                self._waiting.popleft().close()
                continue
            self._waiting.popleft()
            outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._links.add(_Link(outside, inside, self._selector, self._links.discard))


class _Pipe:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending = bytearray()
        self.ended = False  # the source has no more
        self.shut = False  # and the sink has been told so

    def read(self) -> None:
        """Take what the source has."""
        try:
            data = self.source.recv(_BUFFER_BYTES)
        except BlockingIOError:
            return
        self.ended = not data
        self.pending += data

    def write(self) -> None:
        """Give the sink what it takes, and the end when all has been given."""
        with suppress(BlockingIOError):
            while self.pending:
                del self.pending[: self.sink.send(self.pending)]
        if self.ended and not self.pending and not self.shut:
            self.shut = True
            with suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)


class _Link:
    """Both directions of one connection."""

    def __init__(
        self,
        outside: socket.socket,
        inside: socket.socket,
        selector: selectors.BaseSelector,
        forget: Callable[[_Link], None],
    ) -> None:
        self._selector = selector
        self._forget = forget
        self._ends = (outside, inside)
        self._pipes = (_Pipe(outside, inside), _Pipe(inside, outside))
        for end in self._ends:
            end.setblocking(False)
        self._wanted = dict.fromkeys(self._ends, 0)
        self._settle()

    def _step(self, _: int) -> None:
        """Move what can be moved; both ends are non-blocking, so trying costs little."""
        try:
            for pipe in self._pipes:
                if not pipe.ended and len(pipe.pending) < _BUFFER_BYTES:
                    pipe.read()
                pipe.write()
        except OSError:
            self.close()
            return
        if all(pipe.shut for pipe in self._pipes):
            self.close()
        else:
            self._settle()

    def _settle(self) -> None:
        """Ask for exactly the events that can change something."""
        for end in self._ends:
            wanted = 0
            for pipe in self._pipes:
                if pipe.source is end and not pipe.ended and len(pipe.pending) < _BUFFER_BYTES:
                    wanted |= selectors.EVENT_READ
                if pipe.sink is end and pipe.pending:
                    wanted |= selectors.EVENT_WRITE
            before, self._wanted[end] = self._wanted[end], wanted
            if before and wanted and before != wanted:
                self._selector.modify(end, wanted, self._step)
            elif wanted and not before:
                self._selector.register(end, wanted, self._step)
            elif before and not wanted:
                self._selector.unregister(end)

    def close(self) -> None:
        """Drop the connection."""
        for end in self._ends:
            if self._wanted[end]:
                self._wanted[end] = 0
                self._selector.unregister(end)
            end.close()
        self._forget(self)


def _who_listens(port: int) -> str:
    """The process that listens on `port`, as far as this user may know."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # LISTEN
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for handle in (process / "fd").iterdir():
                with suppress(OSError):
                    if str(handle.readlink()) in inodes:
                        return f"{(process / 'comm').read_text().strip()} (process {process.name}) listens there"
    return "a process of another user listens there"
