"""One request on its way through the front: its head, who it is for, and what was learnt while it was answered.

Takes what the HTTP or gRPC server hands over; every guard, dialect, execution mode and observer reads and notes here.

A copy is known by its Host, which Envoy ends in `-shadow`, or by a header; over gRPC only by the header, because grpcio
keeps `:authority` to itself.

Rules, in order: a client's `x-request-id` is kept when it is short and printable, else a fresh id is made; of the
kinds of traffic only `live` and `mirror` are evidence of how the model does.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from intermodal_server.front.head import Head
from intermodal_server.front.limits import Disconnected, Receive
from intermodal_server.tensors import Tensor

if TYPE_CHECKING:
    from intermodal_server.front.observe.trace.context import Context

MAX_REQUEST_ID_CHARS = 128
_PREFIX = os.urandom(6).hex()
_count = itertools.count(1)


class Exchange:
    """One request; the fields after `receive` are filled in on the way."""

    __slots__ = (
        "batch_rows",
        "caller",
        "compute_s",
        "entered_s",
        "head",
        "headers",
        "inputs",
        "lane",
        "method",
        "outputs",
        "path",
        "protocol",
        "queue_s",
        "receive",
        "request_id",
        "rows",
        "started_s",
        "trace",
        "traffic",
    )

    def __init__(self, head: Head, receive: Receive, protocol: str = "http") -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.headers = head.headers
        self.receive = receive
        self.protocol = protocol  # the dialect that answered: v2, predict, grpc, …
        self.started_s = time.monotonic()
        self.request_id = request_id(head.headers.get(b"x-request-id"))
        self.traffic = head.traffic
        self.caller = ""  # the name of the API key that it came with
        self.lane: object = None  # where its caller's requests are counted
        self.rows = 0
        self.batch_rows = 0  # of the batch that it went with
        self.queue_s = 0.0
        self.compute_s = 0.0
        self.entered_s = 0.0  # when the tensors came to the executor
        self.inputs: Sequence[Tensor] = ()
        self.outputs: Sequence[Tensor] = ()
        self.trace: Context | None = None  # when traces are on

    @classmethod
    def own(cls, traffic: str) -> Exchange:
        """A request of the server to itself, such as a golden case."""
        exchange = cls(Head("POST", "", {}), no_body)
        exchange.traffic = traffic
        return exchange


async def no_body(limit: int, grace_s: float) -> bytes:
    """The body of a request that is no HTTP request."""
    raise Disconnected


def request_id(given: str | None) -> str:
    """The client's id when it may stand in logs and headers, else one that is unique in this container."""
    if given and len(given) <= MAX_REQUEST_ID_CHARS and given.isascii() and given.isprintable():
        return given
    return f"{_PREFIX}-{next(_count):x}"
