"""Who answers when there is no front: probes at once and truthfully, everything else waits for the next front.

Takes the listening sockets while no front takes connections, hands on short answers; connections that asked for
something else are kept unread and handed to the front that comes.

Rules, in order:
1. Only a request's first line is looked at, and only by peeking: a connection that is handed on has lost no byte.
2. A probe is answered with what `Truth` says. Anything else is kept while `Truth.hold` is true, at most `hold_s`;
   after that, and when it is false, the answer is 503 with Retry-After.
3. `MAX_CONNECTIONS` at a time; further ones stay in the kernel's backlog. `LINE_BYTES` and `LINE_S` for a first line;
   after an answer `LAST_S` for the client to read it, during which what it still sends is thrown away.
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

MAX_CONNECTIONS = 512
LINE_BYTES = 2048
LINE_S = 5.0
LAST_S = 1.0
LAST_BYTES = 1 << 20
ACCEPT_AT_ONCE = 64

FRESH, HELD, ANSWERED = "fresh", "held", "answered"
LIVE, READY = "live", "ready"
READY_PATHS = frozenset(("/v2/health/ready", "/ping"))
PHRASES = {200: "OK", 503: "Service Unavailable"}


@dataclass(frozen=True)
class Truth:
    """What is so now; asked for every answer."""

    live: bool
    reason: str  # why it is not ready
    hold: bool  # whether a front is on its way for those who wait
    retry_s: int = 1


@dataclass
class Guest:
    """One connection."""

    socket: socket.socket
    since_s: float
    state: str = FRESH
    thrown_away: int = 0


def probe_of(line: bytes, ready_paths: frozenset[str] = READY_PATHS) -> tuple[str, str] | None:
    """Which probe a request line asks for, with the model it names; None for everything else."""
    method, _, rest = line.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1").rstrip("/")
    if method not in (b"GET", b"HEAD"):
        return None
    if path == "/v2/health/live":
        return LIVE, ""
    if path in ready_paths:
        return READY, ""
    parts = path.split("/")
    if parts[1:3] == ["v2", "models"] and parts[-1] == "ready" and len(parts) in (5, 7):
        return READY, parts[3]
    return None


def answer(status: int, document: dict[str, Any], retry_s: int, *, head: bool = False) -> bytes:
    """The bytes of a whole answer after which the connection ends."""
    body = json.dumps(document, separators=(",", ":")).encode()
    lines = [f"HTTP/1.1 {status} {PHRASES[status]}", "content-type: application/json", f"content-length: {len(body)}"]
    if status == 503:
        lines += [f"retry-after: {retry_s}", "x-intermodal-not-ready: 1"]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode() + (b"" if head else body)


class StandIn:
    """Takes connections between `open` and `close`; keeps what it holds after that until it is handed on."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        selector: selectors.BaseSelector,
        truth: Callable[[], Truth],
        hold_s: float,
        ready_path: str = "",
    ) -> None:
        self._listeners = list(listeners)
        self._selector = selector
        self._truth = truth
        self._hold_s = hold_s
        self._ready_paths = READY_PATHS | {ready_path.rstrip("/")} if ready_path else READY_PATHS
        self._guests: dict[int, Guest] = {}
        self._wanted = False
        self._listening = False
        self._now_s = 0.0

    @property
    def held(self) -> int:
        """How many connections wait for a front."""
        return sum(guest.state != ANSWERED for guest in self._guests.values())

    def open(self, now_s: float) -> None:
        """Take connections from now on."""
        self._wanted, self._now_s = True, now_s
        self._adjust()

    def close(self) -> None:
        """Leave new connections to the front."""
        self._wanted = False
        self._adjust()

    def _adjust(self) -> None:
        wanted = self._wanted and len(self._guests) < MAX_CONNECTIONS
        if wanted == self._listening:
            return
        self._listening = wanted
        for listener in self._listeners:
            if wanted:
                self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))
            else:
                self._selector.unregister(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if len(self._guests) >= MAX_CONNECTIONS:
                break
            try:
                connection, _ = listener.accept()
            except OSError:  # none left, or out of descriptors: they wait in the backlog
                break
            connection.setblocking(False)
            guest = Guest(connection, self._now_s)
            self._guests[connection.fileno()] = guest
            self._watch(guest, partial(self._look, guest))
        self._adjust()

    def _watch(self, guest: Guest, act: Callable[[], None]) -> None:
        self._selector.register(guest.socket, selectors.EVENT_READ, act)

    def _unwatch(self, guest: Guest) -> None:
        try:
            self._selector.unregister(guest.socket)
        except (KeyError, ValueError):
            return

    # --- one connection -----------------------------------------------------------------------------------------------
    def _look(self, guest: Guest) -> None:
        """Read the first line without taking it."""
        try:
            data = guest.socket.recv(LINE_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._forget(guest)
            return
        self._unwatch(guest)  # peeked bytes stay readable; `tick` looks again where the line is not whole
        line, end, _ = data.lstrip(b"\r\n").partition(b"\n")
        if not end and len(data) < LINE_BYTES:
            return
        probe = probe_of(line, self._ready_paths)
        if probe is None:
            guest.state = HELD
            self._settle(guest)
            return
        truth = self._truth()
        kind, model = probe
        head = line.startswith(b"HEAD")
        if kind == LIVE and truth.live:
            self._answer(guest, answer(200, {"live": True}, 0, head=head))
        elif kind == LIVE:
            self._answer(guest, answer(503, {"live": False, "reason": truth.reason}, truth.retry_s, head=head))
        else:
            named = {"name": model} if model else {}
            body = {**named, "ready": False, "reason": truth.reason}
            self._answer(guest, answer(503, body, truth.retry_s, head=head))

    def _settle(self, guest: Guest) -> None:
        truth = self._truth()
        if not truth.hold or self._now_s - guest.since_s >= self._hold_s:
            self._answer(guest, answer(503, {"error": f"not ready: {truth.reason}"}, truth.retry_s))

    def _answer(self, guest: Guest, data: bytes) -> None:
        """Send it and say that no more comes; the client's end, or `LAST_S`, ends the connection."""
        guest.state, guest.since_s = ANSWERED, self._now_s
        try:
            guest.socket.send(data)
            guest.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._forget(guest)
            return
        self._unwatch(guest)
        self._watch(guest, lambda: self._throw_away(guest))

    def _throw_away(self, guest: Guest) -> None:
        try:
            data = guest.socket.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        guest.thrown_away += len(data)
        if not data or guest.thrown_away > LAST_BYTES:
            self._forget(guest)

    def _forget(self, guest: Guest) -> None:
        self._unwatch(guest)
        self._guests.pop(guest.socket.fileno(), None)
        guest.socket.close()
        self._adjust()

    # --- what the loop calls ------------------------------------------------------------------------------------------
    def tick(self, now_s: float) -> None:
        """Look at half-sent lines again, and end what has waited too long."""
        self._now_s = now_s
        for guest in self._all(FRESH):
            if now_s - guest.since_s >= LINE_S:
                guest.state = HELD
            else:
                self._look_again(guest)
        for guest in self._all(HELD):
            self._settle(guest)
        for guest in self._all(ANSWERED):
            if now_s - guest.since_s >= LAST_S:
                self._forget(guest)

    def _look_again(self, guest: Guest) -> None:
        if guest.socket.fileno() not in self._selector.get_map():
            self._look(guest)

    def _all(self, state: str) -> Iterable[Guest]:
        return [guest for guest in self._guests.values() if guest.state == state]

    def hand_over(self, send: Callable[[int], bool]) -> None:
        """Give every connection that is not answered to the front, as long as that takes them."""
        for guest in [*self._all(HELD), *self._all(FRESH)]:
            if not send(guest.socket.fileno()):
                return
            self._forget(guest)

    def finish(self) -> None:
        """Answer everybody who still waits, and end all connections."""
        self.close()
        for guest in self._all(FRESH):
            self._look(guest)
        for guest in [*self._all(HELD), *self._all(FRESH)]:
            truth = self._truth()
            self._answer(guest, answer(503, {"error": f"not ready: {truth.reason}"}, truth.retry_s))
        for guest in self._all(ANSWERED):
            self._forget(guest)
