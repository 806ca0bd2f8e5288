"""Several transfers at once, and one end for all of them.

Takes pieces of work, hands on their results in order. When one fails, or the user interrupts, the others stop at once
instead of running to their end: their connections are shut, their waiting ends, and they begin nothing new.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from msgspec.structs import replace

from intermodal.errors import Interrupted
from intermodal.events import Task
from intermodal.registry.client import Registries
from intermodal.registry.patience import Manner

THREADS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppableTask(Task):
    """Progress of a transfer that ends with an error once `stop` is set."""

    def __init__(self, task: Task, stop: threading.Event) -> None:
        self._task, self._stop = task, stop

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more.

        Raises:
            Interrupted: the whole undertaking has ended meanwhile.
        """
        if self._stop.is_set():
            raise _stopped()
        self._task.advance(amount)


def each(
    work: Callable[[Item], Result], items: Iterable[Item], stop: threading.Event, registries: Registries
) -> Sequence[Result]:
    """The results of `work` on every item, at most `THREADS` at a time.

    Args:
        work: a transfer over `registries` that tells a `StoppableTask` of its progress.
        items: what to do it with.
        stop: set when it is over for all of them.
        registries: whose connections are shut then.

    Raises:
        whatever `work` raised first; the others have ended by then.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        futures = [pool.submit(work, item) for item in items]
        for future in as_completed(futures):  # the first failure ends the waiting, whoever it is
            future.result()
        return [future.result() for future in futures]
    except BaseException:
        stop.set()
        registries.shut()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stoppable(manner: Manner | None, stop: threading.Event) -> Manner:
    """`manner`, or the usual one whose waiting ends with an error when the whole undertaking does."""
    if manner is not None:
        return manner

    def sleep(pause_s: float) -> None:
        if stop.wait(pause_s):
            raise _stopped()

    usual = Manner()
    return replace(usual, patience=replace(usual.patience, sleep=sleep))


def _stopped() -> Interrupted:
    return Interrupted("stopped before it was done")
