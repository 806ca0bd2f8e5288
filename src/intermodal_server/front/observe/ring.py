"""The last predictions with their request ids, so that two revisions can be compared on the same requests.

Takes the outputs of answered requests, hands on what came after a number. Off unless `INTERMODAL_RING` says how many.

Rules, in order:
1. At most so many entries, and at most `MAX_BYTES` of their tensors; the oldest go first.
2. An entry above `MAX_ENTRY_BYTES` is kept without its tensors.
3. Inputs are kept only when `INTERMODAL_RING_INPUTS` asks for them.
4. Numbers rise by one and begin anew with the process; `instance` tells one process from the next.
"""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import orjson

from intermodal_server.front.exchange import Exchange
from intermodal_server.tensors import Tensor, TensorError, to_document

MAX_BYTES = 64 << 20
MAX_ENTRY_BYTES = 1 << 20
MAX_ANSWER_BYTES = 4 << 20
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000

Tensors = Optional[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Entry:
    """One answered request."""

    number: int
    request_id: str
    traffic: str
    time_s: float
    size_bytes: int
    outputs: Tensors
    inputs: Tensors


class Ring:
    """The entries; one for the life of the front."""

    def __init__(self, most: int, *, inputs: bool, now: Callable[[], float] = time.time) -> None:
        self._most = most
        self._with_inputs = inputs
        self._now = now
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._last = 0

    def ended(self, exchange: Exchange, status: int) -> None:
        """A request is over: keep what the model said."""
        if not exchange.outputs or status >= 400:
            return
        inputs = exchange.inputs if self._with_inputs else None
        size = sum(len(tensor.data) for tensor in (*exchange.outputs, *(inputs or ())))
        kept = size <= MAX_ENTRY_BYTES
        self._last += 1
        entry = Entry(
            self._last,
            exchange.request_id,
            exchange.traffic,
            self._now(),
            size if kept else 0,
            _own(exchange.outputs) if kept else None,
            _own(inputs) if kept and inputs else None,
        )
        self._entries.append(entry)
        self._bytes += entry.size_bytes
        while len(self._entries) > self._most or self._bytes > MAX_BYTES:
            self._bytes -= self._entries.popleft().size_bytes

    def page(self, instance: str, after: int, limit: int) -> Iterator[bytes]:
        """JSON of at most `limit` entries whose numbers are above `after`, oldest first, in pieces.

        `next` is what to ask for `after` the next time; entries between `after` and `first` were lost to newer ones.
        """
        entries = list(self._entries)
        first = entries[0].number if entries else self._last + 1
        start = max(0, after + 1 - first)
        chosen = entries[start : start + max(0, min(limit, MAX_LIMIT))]
        total, last, separator = 0, max(after, first - 1) if chosen else after, b""
        head = {"format": 1, "instance": instance, "first": first, "last": self._last}
        yield orjson.dumps(head)[:-1] + b',"predictions":['
        for entry in chosen:
            total += entry.size_bytes
            if total > MAX_ANSWER_BYTES and separator:
                break
            yield separator + orjson.dumps(_document(entry))
            last, separator = entry.number, b","
        yield b'],"next":%d}' % last


def _own(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies of views, so that no larger buffer is kept for their sake."""
    return tuple(t if isinstance(t.data, bytes) else t._replace(data=bytes(t.data)) for t in tensors)


def _document(entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "number": entry.number,
        "request_id": entry.request_id,
        "traffic": entry.traffic,
        "time_s": round(entry.time_s, 6),
        "outputs": None if entry.outputs is None else [_tensor(tensor) for tensor in entry.outputs],
    }
    if entry.inputs is not None:
        document["inputs"] = [_tensor(tensor) for tensor in entry.inputs]
    return document


def _tensor(tensor: Tensor) -> dict[str, Any]:
    """As V2 has it; what is not text, in base64."""
    try:
        return to_document(tensor)
    except TensorError:
        data = base64.b64encode(tensor.data).decode("ascii")
        return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "base64": data}
