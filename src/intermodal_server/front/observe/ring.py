"""The last predictions with their request ids, so that two revisions can be compared on the same requests.

Takes the outputs of answered requests, hands on what came after a number. Off unless `INTERMODAL_RING` says how many.
A twin hands its entries on to the front, whose ring alone is read.

Rules, in order:
1. At most so many entries, and at most `MAX_BYTES` of their tensors, in all processes together; the oldest go first.
2. An entry above `MAX_ENTRY_BYTES` is kept without its tensors.
3. Inputs are kept only when `INTERMODAL_RING_INPUTS` asks for them.
4. Entries wait in order of time, and get their numbers when the ring is read, once the twins have handed on theirs.
   What comes too late for that gets later ones. So whoever goes on from a number misses nothing and sees nothing twice.
5. Numbers rise by one and begin anew with the process; `instance` tells one process from the next. What is lost has
   numbers, too, so that a reader sees how many.
"""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Callable, NamedTuple, Optional

import orjson

from intermodal_server.front.exchange import Exchange
from intermodal_server.tensors import Tensor, TensorError, to_document

MAX_BYTES = 64 << 20
MAX_ENTRY_BYTES = 1 << 20
MAX_ANSWER_BYTES = 4 << 20
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
PIECE_ENTRIES = 32  # of a page, unless they are large
PIECE_BYTES = 64 << 10

Tensors = Optional[tuple[Tensor, ...]]


class Entry(NamedTuple):
    """One answered request."""

    request_id: str
    traffic: str
    time_s: float
    size_bytes: int
    outputs: Tensors
    inputs: Tensors


class Ring:
    """The entries; one for the life of the process."""

    def __init__(self, most: int, *, inputs: bool, now: Callable[[], float] = time.time) -> None:
        self._most = most
        self._with_inputs = inputs
        self._now = now
        self._max_bytes = MAX_BYTES
        self._numbered: deque[Entry] = deque()  # the last of them has the number `_last`
        self._waiting: deque[Entry] = deque()
        self._lost = 0  # before they had numbers
        self._bytes = 0
        self._last = 0

    @property
    def waiting(self) -> int:
        """How many entries have no number yet."""
        return len(self._waiting)

    def divide(self, parts: int) -> None:
        """Keep to that part of the bytes, but for one entry: others keep the rest."""
        self._max_bytes = max(MAX_BYTES // parts, MAX_ENTRY_BYTES)
        self._trim()

    def ended(self, exchange: Exchange, status: int) -> None:
        """A request is over: keep what the model said."""
        if not exchange.outputs or status >= 400:
            return
        inputs = exchange.inputs if self._with_inputs else None
        size = sum([len(tensor.data) for tensor in (*exchange.outputs, *(inputs or ()))])
        kept = size <= MAX_ENTRY_BYTES
        entry = Entry(
            exchange.request_id,
            exchange.traffic,
            self._now(),
            size if kept else 0,
            _own(exchange.outputs) if kept else None,
            _own(inputs) if kept and inputs else None,
        )
        self._waiting.append(entry)
        self._bytes += entry.size_bytes
        self._trim()

    def _trim(self) -> None:
        while len(self._numbered) + len(self._waiting) > self._most or self._bytes > self._max_bytes:
            if self._numbered:
                gone = self._numbered.popleft()
            else:
                gone = self._waiting.popleft()
                self._lost += 1
            self._bytes -= gone.size_bytes

    # --- several processes --------------------------------------------------------------------------------------------
    def take(self, most: int, most_bytes: int) -> tuple[int, list[Entry]]:
        """What waits, oldest first, for `add` of the front; it is kept here no more.

        Args:
            most: entries.
            most_bytes: of their tensors; one entry may have more.

        Returns:
            How many were lost since this was last asked, and the entries.
        """
        lost, self._lost = self._lost, 0
        taken: list[Entry] = []
        size = 0
        while self._waiting and len(taken) < most:
            size += self._waiting[0].size_bytes
            if size > most_bytes and taken:
                break
            taken.append(self._waiting.popleft())
            self._bytes -= taken[-1].size_bytes
        return lost, taken

    def add(self, lost: int, entries: Sequence[Entry]) -> None:
        """Keep what a twin has kept."""
        self._lost += lost
        self._bytes += sum(entry.size_bytes for entry in entries)
        self._waiting = deque(sorted((*self._waiting, *entries), key=_time_s))
        self._trim()

    def _number(self) -> None:
        if self._lost:  # what has numbers is older, and there can be no gap behind it
            self._bytes -= sum(entry.size_bytes for entry in self._numbered)
            self._numbered.clear()
        self._last += self._lost + len(self._waiting)
        self._lost = 0
        self._numbered += self._waiting
        self._waiting.clear()

    # --- the page -----------------------------------------------------------------------------------------------------
    def page(self, instance: str, after: int, limit: int) -> Iterator[bytes]:
        """JSON of at most `limit` entries whose numbers are above `after`, oldest first, in pieces.

        `next` is what to ask for `after` the next time; entries between `after` and `first` were lost to newer ones.
        """
        self._number()
        first = self._last - len(self._numbered) + 1
        start = max(0, after + 1 - first)
        chosen = list(islice(self._numbered, start, start + max(0, min(limit, MAX_LIMIT))))
        total, number, separator = 0, max(after, first - 1) if chosen else after, b""
        head = {"format": 1, "instance": instance, "first": first, "last": self._last}
        yield orjson.dumps(head)[:-1] + b',"predictions":['
        piece: list[bytes] = []
        for entry in chosen:
            total += entry.size_bytes
            if total > MAX_ANSWER_BYTES and separator:
                break
            number += 1
            piece.append(separator + orjson.dumps(_document(number, entry)))
            separator = b","
            if len(piece) == PIECE_ENTRIES or entry.size_bytes * PIECE_ENTRIES > PIECE_BYTES:
                yield b"".join(piece)
                piece = []
        yield b"".join(piece) + b'],"next":%d}' % number


def _time_s(entry: Entry) -> float:
    return entry.time_s


def _own(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies of views, so that no larger buffer is kept for their sake."""
    return tuple(
        [t if isinstance(t.data, bytes) else Tensor(t.name, t.datatype, t.shape, bytes(t.data)) for t in tensors]
    )


def _document(number: int, entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "number": number,
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
