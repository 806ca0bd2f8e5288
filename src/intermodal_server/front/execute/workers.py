"""Worker processes as copies of the model: connections come from the supervisor, and broken ones go back to it.

Takes descriptors and process ids, hands copies to the batcher. Rules, in order: a worker that dies takes a request only
with it that was alone with it; one that does not answer in time is killed; queued requests wait for the replacement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Callable

from intermodal_server.front.execute.batcher import Batcher, Copy, Job
from intermodal_server.front.execute.link import WorkerLink
from intermodal_server.log import Log


class Workers:
    """The links of a batcher."""

    def __init__(self, replace: Callable[[int, str], None], log: Log) -> None:
        """No workers yet.

        Args:
            replace: asks the supervisor to kill a process; it starts another by itself.
            log: where lost requests are told.
        """
        self._replace = replace
        self._log = log
        self._links: dict[int, WorkerLink] = {}  # by process id
        self._freed: dict[int, asyncio.Event] = {}
        self.batcher: Batcher

    def add(self, number: int, pid: int, descriptor: int) -> None:
        """Take a worker that has loaded the model; it replaces one of its number."""
        for old in [link for link in self._links.values() if link.number == number]:
            self.remove(old.pid)
        link = WorkerLink(number, pid, descriptor, self._closed)
        self._links[pid] = link
        self.batcher.add(link)

    def remove(self, pid: int) -> None:
        """Forget a worker that is gone; what it worked on is told so."""
        link = self._links.pop(pid, None)
        if link is not None:
            self.batcher.remove(link)
            link.end()
            self._say_freed(pid)

    def _closed(self, link: WorkerLink) -> None:
        """An idle worker closed its connection: the supervisor will see why."""
        self.remove(link.pid)

    def lost(self, copy: Copy, why: str, jobs: Sequence[Job]) -> None:
        """A worker broke off, or was given up, while it worked on `jobs`."""
        assert isinstance(copy, WorkerLink)
        ids = [job.exchange.request_id for job in jobs]
        self._log.error("a worker lost its request", worker=copy.number, request=ids[0], batch=len(ids), reason=why)
        if self._links.pop(copy.pid, None) is not None:
            self._say_freed(copy.pid)
            self._replace(copy.pid, why)

    async def release(self, pid: int) -> None:
        """Give a worker no further request; return when it has answered what it has."""
        link = self._links.get(pid)
        if link is None:
            return
        freed = self._freed.setdefault(pid, asyncio.Event())
        self.batcher.retire(link, lambda: self.remove(pid))
        await freed.wait()

    def _say_freed(self, pid: int) -> None:
        freed = self._freed.pop(pid, None)
        if freed is not None:
            freed.set()

    def close(self) -> None:
        """Give all connections up."""
        for pid in list(self._links):
            self.remove(pid)
