"""One HTTP request while it arrives: its head, and its body as far as it is here.

Takes pieces of a body from the connection, hands the whole of it to whoever asks. A request is answered as soon as its
head is here, so that a refusal needs no body; most bodies are whole by then, and nobody waits.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from intermodal_server.front.head import Head
from intermodal_server.front.limits import SLOWEST_BYTES_PER_S, Body, Disconnected, Refusal, too_large

HIGH_WATER_BYTES = 64 << 10  # of a body that nobody has asked for yet
IGNORED_BYTES = 64 << 10  # a declared body of this size is read past when it was not needed


class Source(Protocol):
    """What a request needs of its connection."""

    def want_body(self) -> None:
        """Go on reading, and look after the clock."""
        ...


class Incoming:
    """One request of one connection."""

    body: Body = b""
    whole = False
    answered = False
    broken: Exception | None = None  # what is to come of the body will never come
    expects = False  # the client waits for 100 Continue
    # of whoever waits for the body
    waiter: asyncio.Future[None] | None = None
    limit = 0
    before = 0  # bytes of it at the last look
    grace_s = 0.0
    since_s = 0.0

    def __init__(self, head: Head, keep_alive: bool, source: Source) -> None:
        self.head = head
        self.keep_alive = keep_alive
        self.source = source

    def add(self, piece: bytes) -> bool:
        """Keep a piece; False when the connection had better read no further for now."""
        if self.answered:
            return True
        if not self.body:
            self.body = piece
        elif isinstance(self.body, bytearray):
            self.body += piece
        else:
            self.body = bytearray(self.body)
            self.body += piece
        if self.waiter is None:
            return len(self.body) <= HIGH_WATER_BYTES
        if len(self.body) > self.limit:
            self.fail(too_large(self.limit))
        return True

    def end(self) -> None:
        """The body is whole."""
        self.whole = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Whoever waits for the body need not."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(error)

    def lost(self) -> None:
        """The client is gone."""
        self.body = b""
        self.broken = Disconnected()
        self.fail(self.broken)

    def spoil(self, refusal: Refusal) -> None:
        """What arrives can no longer be understood."""
        self.keep_alive = False
        self.broken = refusal
        self.fail(refusal)

    async def receive(self, limit: int, grace_s: float) -> Body:
        """The whole body as it was sent.

        Args:
            limit: largest size in bytes.
            grace_s: in each stretch of this length 16 KiB/s must come, or the end of the body.

        Raises:
            Refusal: 408, 413, or whatever spoilt it.
            Disconnected: the client went away.
        """
        if not self.whole:
            if self.broken is not None:
                raise self.broken
            loop = asyncio.get_running_loop()
            self.limit, self.grace_s, self.since_s, self.before = limit, grace_s, loop.time(), len(self.body)
            self.waiter = loop.create_future()
            self.source.want_body()
            await self.waiter
        if len(self.body) > limit:
            raise too_large(limit)
        return self.body

    def due_s(self) -> float:
        """When to look whether a body that somebody waits for is too slow, on the loop's clock."""
        return self.since_s + self.grace_s

    def too_slow(self, now_s: float) -> bool:
        """Fail it when too little has come since the last look; whether it may go on."""
        if len(self.body) - self.before < SLOWEST_BYTES_PER_S * self.grace_s:
            self.fail(Refusal(408, "the request body came too slowly", close=True))
            return False
        self.since_s, self.before = now_s, len(self.body)
        return True

    def skippable(self) -> bool:
        """Whether what is still to come of a body that is not needed is small, so that the connection may go on."""
        return 0 < self.head.length <= IGNORED_BYTES and not self.expects
