"""Several transfers at once, and one end for all of them.

Takes pieces of work, hands on their results in order. When one fails, or the user interrupts, the others stop at their
next piece instead of running to their end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from intermodal.errors import Interrupted
from intermodal.events import Task
from intermodal.registry.patience import Manner, Patience

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
            raise Interrupted("stopped before it was done")
        self._task.advance(amount)


def each(work: Callable[[Item], Result], items: Iterable[Item], stop: threading.Event) -> Sequence[Result]:
    """The results of `work` on every item, at most `THREADS` at a time.

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
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stoppable_manner(stop: threading.Event) -> Manner:
    """The usual manner, whose waiting ends when the whole undertaking does."""

    def sleep(pause_s: float) -> None:
        stop.wait(pause_s)

    return Manner(Patience(sleep=sleep))
