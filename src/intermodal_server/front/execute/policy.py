"""When requests go to the model, and which of them together: a pure decision, without clock, sockets or event loop.

Takes requests as they arrive and copies of the model as they become free, hands on batches. Whoever drives it says
what time it is, and asks `take` after everything that happens and once more at `wake_s`.

Rules, in order (facts behind them: docs/architecture/server-execution.md):
1. A request that finds a free copy of the model, with no window open on it, goes at once. A lone caller never waits.
2. What queues meanwhile goes together, oldest first: up to `max_rows` rows and `max_bytes` bytes, and only requests
   of one key. A request of more than that goes by itself, and so does one without a key.
3. When a batch has been answered, its callers are likely to ask again: `expected` = the requests just answered + those
   that wait. If that is one, or the window would be shorter than `window_least_s`, or all of them or a full batch
   wait already, nobody is waited for.
4. Otherwise a window is opened: `fixed_s`, which is what one batch less would save, times the patience; no longer than
   a predict takes now, nor than `window_most_s`. It ends as soon as `expected` requests or a full batch are there.
5. Patience: 1 at first, and after a window that brought all it waited for; half after one that did not; `RECOVERY`
   times as much after a predict that opened none. Callers who ask again at once are gathered into one batch, those who
   come as they like soon wait for nobody.
6. A request whose deadline has passed is never given to the model; `take` hands it back as late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Optional, TypeVar

SMOOTHING = 0.2  # how much the newest predict counts in the running mean
RECOVERY = 1.1


class Request:
    """What the policy knows of a request; executors derive from it."""

    __slots__ = ("deadline_s", "key", "rows", "size_bytes", "withdrawn")

    def __init__(self, rows: int, size_bytes: int, key: Optional[Hashable], deadline_s: float) -> None:
        self.rows = rows
        self.size_bytes = size_bytes
        self.key = key  # only requests of one key may go together; None: this one goes alone
        self.deadline_s = deadline_s
        self.withdrawn = False


R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class Limits:
    """How large a batch may be, and how long it may be waited for."""

    max_rows: int = 256
    max_bytes: int = 64 << 20
    fixed_s: float = 0.0  # of a predict, whatever its rows; 0: nobody is waited for
    window_most_s: float = 0.005
    window_least_s: float = 0.0005


@dataclass(frozen=True)
class _Window:
    end_s: float
    expected: int


class Batch(Generic[R]):
    """Requests that go to one copy of the model now; `late` ones must be refused instead."""

    __slots__ = ("copy", "late", "requests", "rows")

    def __init__(self, copy: int, requests: list[R], rows: int, late: list[R]) -> None:
        self.copy = copy
        self.requests = requests
        self.rows = rows
        self.late = late


class Policy(Generic[R]):
    """The queue, and which copies of the model are free."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.predict_s = 0.0  # running mean
        self.queued_rows = 0
        self.queued_bytes = 0
        self._queue: deque[R] = deque()
        self._free: dict[int, Optional[_Window]] = {}  # oldest first
        self._patience = 1.0  # 0 to 1

    def __len__(self) -> int:
        return len(self._queue)

    # --- what happens -------------------------------------------------------------------------------------------------
    def arrive(self, request: R) -> None:
        """A request joins the queue."""
        self._queue.append(request)
        self.queued_rows += request.rows
        self.queued_bytes += request.size_bytes

    def again(self, groups: Sequence[Sequence[R]]) -> None:
        """Requests whose batch failed go first, each group by itself."""
        for group in reversed(groups):
            key = object() if len(group) > 1 else None
            for request in reversed(group):
                request.key = key
                self._queue.appendleft(request)
                self.queued_rows += request.rows
                self.queued_bytes += request.size_bytes

    def withdraw(self, request: R) -> None:
        """The caller of a request has gone; it may be queued or not."""
        if not request.withdrawn:
            request.withdrawn = True
            if request in self._queue:
                self._queue.remove(request)
                self._forget(request)

    def free(self, copy: int) -> None:
        """A copy of the model has loaded."""
        self._free[copy] = None

    def gone(self, copy: int) -> None:
        """A copy of the model is no more; it may be free or busy."""
        self._free.pop(copy, None)

    def done(self, copy: int, requests: int, predict_s: float, now_s: float) -> None:
        """A copy has worked on that many requests, for `predict_s`, and their callers have been answered."""
        self.predict_s += (predict_s - self.predict_s) * (SMOOTHING if self.predict_s else 1.0)
        limits, expected = self.limits, requests + len(self._queue)
        length_s = min(limits.fixed_s * self._patience, self.predict_s, limits.window_most_s)
        waits = requests > 0 and expected > 1 and length_s >= limits.window_least_s and limits.max_rows > 1
        self._free[copy] = _Window(now_s + length_s, expected) if waits else None
        if not waits:
            self._patience = min(1.0, self._patience * RECOVERY)

    # --- what follows -------------------------------------------------------------------------------------------------
    def take(self, now_s: float) -> Optional[Batch[R]]:
        """The next batch that is to run now; to be asked until there is none."""
        if not self._queue or not self._free:
            return None
        for copy, window in self._free.items():
            enough = window is not None and self._enough(window)
            if window is None or enough or now_s >= window.end_s:
                if window is not None:
                    self._patience = 1.0 if enough else self._patience / 2
                    self._free[copy] = None
                batch = self._batch(copy, now_s)
                if batch.requests:
                    del self._free[copy]
                return batch if batch.requests or batch.late else None
        return None

    def _enough(self, window: _Window) -> bool:
        return len(self._queue) >= window.expected or self.queued_rows >= self.limits.max_rows

    @property
    def wake_s(self) -> Optional[float]:
        """When `take` may have an answer although nothing has happened; None when only an event can change it."""
        if not self._queue:
            return None
        ends = [window.end_s for window in self._free.values() if window is not None]
        return min(ends) if ends else None

    def late(self, now_s: float) -> list[R]:
        """Queued requests whose time is over; they leave the queue."""
        found = [request for request in self._queue if request.deadline_s <= now_s]
        for request in found:
            self._queue.remove(request)
            self._forget(request)
        return found

    def drop_all(self) -> list[R]:
        """Every queued request; the queue is empty afterwards."""
        found = list(self._queue)
        self._queue.clear()
        self.queued_rows = self.queued_bytes = 0
        return found

    # --- the batch ----------------------------------------------------------------------------------------------------
    def _batch(self, copy: int, now_s: float) -> Batch[R]:
        """The oldest request and those that may go with it."""
        chosen: list[R] = []
        late: list[R] = []
        passed: list[R] = []  # of another key; they keep their place
        rows = size_bytes = 0
        key: Optional[Hashable] = None
        queue, limits = self._queue, self.limits
        while queue:
            request = queue[0]
            if request.deadline_s <= now_s:
                late.append(queue.popleft())
            elif not chosen:
                chosen.append(queue.popleft())
                key, rows, size_bytes = request.key, request.rows, request.size_bytes
                if key is None:
                    break
            elif request.key != key:
                passed.append(queue.popleft())
            elif rows + request.rows > limits.max_rows or size_bytes + request.size_bytes > limits.max_bytes:
                break  # nobody of the same key overtakes it
            else:
                chosen.append(queue.popleft())
                rows += request.rows
                size_bytes += request.size_bytes
        queue.extendleft(reversed(passed))
        for request in chosen:
            self._forget(request)
        for request in late:
            self._forget(request)
        return Batch(copy, chosen, rows, late)

    def _forget(self, request: R) -> None:
        self.queued_rows -= request.rows
        self.queued_bytes -= request.size_bytes
