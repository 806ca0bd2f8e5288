"""A TCP proxy on loopback that cuts connections after a number of bytes, for real servers behind broken networks."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """A running proxy; `up` and `down` say after how many bytes the next connection is cut, None for never."""

    target: tuple[str, int]
    up: Callable[[], int | None] = lambda: None
    down: Callable[[], int | None] = lambda: None
    address: str = ""
    upwards: int = 0  # bytes from clients
    downwards: int = 0
    cuts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, client: socket.socket) -> None:
        """Carry one connection."""
        with client, socket.create_connection(self.target) as server, suppress(OSError):
            back = threading.Thread(target=self.carry, args=[server, client, self.down(), "downwards"], daemon=True)
            back.start()
            self.carry(client, server, self.up(), "upwards")
            back.join(5)

    def carry(self, source: socket.socket, sink: socket.socket, left: int | None, count: str) -> None:
        """Carry one direction."""
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self.lock:
                    setattr(self, count, getattr(self, count) + len(data))
                if left is not None and (left := left - len(data)) <= 0:
                    self.cuts += 1
                    for end in (source, sink):  # shut, because the other direction may be waiting on them
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        end.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def cutting(address: str) -> Iterator[Proxy]:
    """A proxy before `address` for the length of a `with` block; it cuts nothing until it is told to."""
    host, _, port = address.rpartition(":")
    proxy = Proxy((host, int(port)))
    listener = socket.create_server(("127.0.0.1", 0))
    proxy.address = f"127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=proxy.serve, args=[listener.accept()[0]], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
