"""Hand requests to workers: a bounded queue in order of arrival, one request at a worker at a time.

Takes checked inputs, hands on outputs or a `Refusal`.

Rules, in order:
1. A full queue refuses at once with 429; a request that waited `timeout_s` without reaching a worker gets 503.
2. A request has `timeout_s` at its worker. One that takes longer gets 504 and its worker is killed and replaced;
   nothing else is lost with it.
3. A worker that dies takes its own request with it (500), which is not tried again: it may be what killed it.
4. Queued requests wait for the replacement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute.link import WorkerError, WorkerGone, WorkerLink
from intermodal_server.front.limits import Refusal
from intermodal_server.log import Log
from intermodal_server.tensors import Tensor

MAX_QUEUED = 1024
MAX_QUEUED_BYTES = 512 << 20
RETRY = ((b"retry-after", b"1"),)


@dataclass(eq=False)
class Job:
    """One request on its way."""

    request_id: str
    inputs: Sequence[Tensor]
    size_bytes: int
    answer: asyncio.Future[list[Tensor]]


class Dispatcher:
    """The queue and the workers behind it."""

    def __init__(self, *, timeout_s: float, replace: Callable[[int, str], None], log: Log) -> None:
        self._timeout_s = timeout_s
        self._replace = replace
        self._log = log
        self._links: dict[int, WorkerLink] = {}
        self._idle: deque[WorkerLink] = deque()
        self._queue: deque[Job] = deque()
        self._queued_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def mode(self) -> str:
        """How this executor runs the model."""
        return "workers"

    @property
    def workers(self) -> int:
        """How many workers can be asked now."""
        return sum(link.alive for link in self._links.values())

    @property
    def waiting(self) -> int:
        """How many requests have not reached a worker yet."""
        return len(self._queue)

    def add(self, link: WorkerLink) -> None:
        """Take a worker that has loaded the model."""
        old = self._links.get(link.number)
        if old is not None:
            self.remove(old.number)
        self._links[link.number] = link
        self._idle.append(link)
        self._changed.set()
        self._pump()

    def remove(self, number: int) -> None:
        """Forget a worker that is gone."""
        link = self._links.pop(number, None)
        if link is not None:
            link.close()
            if link in self._idle:
                self._idle.remove(link)

    async def release(self, pid: int) -> None:
        """Give a worker no further request; return when it has answered the one it has."""
        link = next((link for link in self._links.values() if link.pid == pid), None)
        if link is None:
            return
        del self._links[link.number]
        if link in self._idle:
            self._idle.remove(link)
        else:
            await link.done.wait()
        link.close()

    def refuse_waiting(self, refusal: Refusal) -> None:
        """Refuse every request that has not reached a worker."""
        while self._queue:
            job = self._queue.popleft()
            self._queued_bytes -= job.size_bytes
            self._fail(job, refusal)

    async def wait_for_workers(self, count: int) -> None:
        """Return once `count` workers can be asked."""
        while self.workers < count:
            self._changed.clear()
            await self._changed.wait()

    async def infer(self, exchange: Exchange, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The model's outputs for `inputs`.

        Raises:
            Refusal: 400, 429, 500, 503 or 504, worded for the client.
        """
        size = sum(len(tensor.data) for tensor in inputs)
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes + size > MAX_QUEUED_BYTES:
            raise Refusal(429, "too many requests are waiting", headers=RETRY)
        loop = asyncio.get_running_loop()
        job = Job(exchange.request_id, inputs, size, loop.create_future())
        self._queue.append(job)
        self._queued_bytes += size
        expiry = loop.call_later(self._timeout_s, self._expire, job)
        self._pump()
        try:
            return await job.answer
        finally:
            expiry.cancel()

    def _expire(self, job: Job) -> None:
        if job in self._queue:
            self._queue.remove(job)
            self._queued_bytes -= job.size_bytes
            self._fail(job, Refusal(503, "no worker was free in time", headers=RETRY))

    @staticmethod
    def _fail(job: Job, refusal: Refusal) -> None:
        if not job.answer.done():
            job.answer.set_exception(refusal)

    def _pump(self) -> None:
        while self._queue and self._idle:
            link = self._idle.popleft()
            if not link.alive:
                continue
            job = self._queue.popleft()
            self._queued_bytes -= job.size_bytes
            if job.answer.done():  # its caller has gone
                self._idle.appendleft(link)
                continue
            task = asyncio.get_running_loop().create_task(self._run(link, job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, link: WorkerLink, job: Job) -> None:
        timer = asyncio.get_running_loop().call_later(self._timeout_s, link.give_up)
        try:
            outputs = await link.ask(job.request_id, job.inputs)
        except WorkerGone as error:
            if link.given_up:
                self._drop(link, f"no answer within {self._timeout_s:g} s", job)
                self._fail(job, Refusal(504, f"the model did not answer within {self._timeout_s:g} s"))
                return
            self._drop(link, f"it broke off: {error}", job)
            self._fail(job, Refusal(500, "the model process ended while it worked on this request"))
            return
        except WorkerError as error:
            if error.kind == "input":
                self._fail(job, Refusal(400, error.message))
            else:
                self._fail(job, Refusal(500, "the model failed on this request"))
        else:
            if not job.answer.done():
                job.answer.set_result(outputs)
        finally:
            timer.cancel()
        if self._links.get(link.number) is link:
            self._idle.append(link)
            self._pump()
        else:
            link.done.set()

    def _drop(self, link: WorkerLink, why: str, job: Job) -> None:
        self._log.error("a worker lost its request", worker=link.number, request=job.request_id, reason=why)
        link.done.set()
        if self._links.get(link.number) is link:
            self.remove(link.number)
            self._replace(link.pid, why)
