"""Those who ask and take the time: one connection that asks again and again, and one knock a millisecond.

Both speak plain sockets, so that little of what is measured is their own.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from statistics import median

from benchmarks.rollouts.ground import MODEL, users

TIMEOUT_S = 30.0
EVERY_S = 0.001


def median_ms(seconds: Sequence[float]) -> float:
    """The median in milliseconds."""
    return median(seconds) * 1000


def _request() -> bytes:
    data = json.dumps(users(Random(1))).encode()
    head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def _answer(connection: socket.socket) -> int:
    """The status of one answer, read to its end.

    Raises:
        ConnectionError: it broke off.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError("closed without an answer")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
    while len(rest) < length:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError("broke off")
        rest += piece
    return int(lines[0].split()[1])


class Asker:
    """One kept connection."""

    def __init__(self, address: str, port: int) -> None:
        self._place = (address, port)
        self._connection: socket.socket | None = None
        self._request = _request()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def ready(self) -> bool:
        """Whether the server says that it is ready."""
        try:
            with socket.create_connection(self._place, TIMEOUT_S) as connection:
                connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: bench\r\n\r\n")
                return _answer(connection) == 200
        except OSError:
            return False

    def block(self, requests: int) -> list[float]:
        """How long each of so many requests took, one after the other, in seconds."""
        connection = socket.create_connection(self._place, TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        taken = []
        with connection:
            for _ in range(requests):
                began = time.perf_counter()
                connection.sendall(self._request)
                status = _answer(connection)
                taken.append(time.perf_counter() - began)
                if status != 200:
                    raise RuntimeError(f"answered {status}")
        return taken


class Knocker:
    """A new connection with one request each millisecond, in a thread; it never waits for an answer of before."""

    def __init__(self, port: int) -> None:
        self.refused = self.broken = 0
        self._answered: list[float] = []
        self._marked = 0.0
        self._place = ("127.0.0.1", port)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(4)]

    def __enter__(self) -> Knocker:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def mark(self) -> None:
        """The gateway ends now."""
        self._marked = time.monotonic()

    def answers_again(self) -> bool:
        """Whether somebody answered after a time in which nobody did, or long enough without one."""
        last = self._answered[-1] if self._answered else 0.0
        return last > self._marked + 0.5

    @property
    def gap_s(self) -> float:
        """The longest time between two answers in a row."""
        times = sorted(self._answered)
        return max((after - before for before, after in pairwise(times)), default=float("inf"))

    def _run(self, index: int) -> None:
        request, every_s = _request(), EVERY_S * len(self._threads)
        due = time.monotonic() + index * EVERY_S
        while not self._over.is_set():
            due = max(due + every_s, time.monotonic() - every_s)
            if (wait_s := due - time.monotonic()) > 0:
                time.sleep(wait_s)
            self._knock(request)

    def _knock(self, request: bytes) -> None:
        try:
            connection = socket.create_connection(self._place, TIMEOUT_S)
        except ConnectionRefusedError:
            self.refused += 1
            return
        with connection:
            try:
                connection.sendall(request)
                status = _answer(connection)
            except OSError:
                self.broken += 1
                return
        if status == 200:
            self._answered.append(time.monotonic())
        else:
            self.broken += 1
