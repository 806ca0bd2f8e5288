"""The queue before the model: requests in, batches to copies of the model, everybody's own rows back.

Takes checked inputs from the dialects and copies of the model from the execution modes (`inline`, `thread`, `workers`),
hands on outputs or a `Refusal`. The policy decides what goes when; this module keeps time and promises.

Rules, in order:
1. A full queue refuses at once with 429; a request that waited `timeout_s` without reaching the model gets 503.
2. A caller who has gone is dropped before the model is asked.
3. A batch that fails is tried again, so that nobody pays for a neighbour: in halves when the model raised or
   miscounted, request by request when its process died or hung, or when the answer does not look like the model's
   (`forms`). What fails alone is that request's own failure.
4. A batch has half of `timeout_s`; after it hung, its requests share the other half, a quarter of `timeout_s` each at
   least, so that the one at fault cannot use up the time of the others. Who waits for a replacement of what his
   neighbour broke may wait `timeout_s` more.
5. Outputs need one row for each row that went in. Where requests fail together and succeed alone, batching is turned
   off and the log says so: at once for wrong row counts, the third time for anything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Callable, Optional, Protocol

from intermodal_server.contract import ModelSettings
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute.decide import Decision
from intermodal_server.front.execute.forms import Forms
from intermodal_server.front.execute.policy import Batch, Limits, Policy, Request
from intermodal_server.front.limits import Refusal
from intermodal_server.front.stepping import Promise
from intermodal_server.log import Log
from intermodal_server.rows import RowCountError, check_rows, merge_key, own, row_count, split
from intermodal_server.tensors import Tensor
from intermodal_server.worker.call import Answer, Failure

MAX_QUEUED = 1024
MAX_QUEUED_BYTES = 512 << 20
MAX_BATCH_BYTES = 64 << 20
FRUITLESS_BATCHES = 3
LEAST_SHARE = 4  # of timeout_s: a busy machine, or a thread that spins beside, may slow down who did nothing wrong
LEAST_TIMER_S = 0.001  # uvloop counts in milliseconds, and rounds less than half of one to nothing
RETRY = ((b"retry-after", b"1"),)
ANY_FORM = Forms()


class FormError(ValueError):
    """A batch was answered in a form that is not the model's."""


class Copy(Protocol):
    """One copy of the model, which works on one batch at a time."""

    number: int

    def ask(self, jobs: Sequence[Job], rows: int, done: Callable[[Answer], None]) -> None:
        """Begin; `done` is called once, in the event loop."""
        ...

    def give_up(self) -> None:
        """Its time is over: `done` gets `Failure("hung")`, and the copy is of no more use."""
        ...


class Job(Request):
    """One request on its way."""

    __slots__ = ("answer", "arrived_s", "exchange", "inputs", "limit_s", "started_s", "trial")

    def __init__(
        self, exchange: Exchange, inputs: Sequence[Tensor], answer: Promise[list[Tensor]], arrived_s: float
    ) -> None:
        self.exchange = exchange
        self.inputs = inputs
        self.answer = answer
        self.arrived_s = arrived_s
        self.started_s = arrived_s
        self.limit_s = 0.0  # at the model, when less than everybody's
        self.trial: Optional[_Trial] = None
        self.withdrawn = False


class _Trial:
    """A batch that failed, while its requests are tried alone."""

    def __init__(self, requests: int, why: str, weight: int) -> None:
        self.left = requests
        self.why = why
        self.weight = weight


class Batcher:
    """The executor of every mode; the modes differ in the copies that they add."""

    def __init__(
        self,
        settings: ModelSettings,
        decision: Decision,
        log: Log,
        *,
        lost: Callable[[Copy, str, Sequence[Job]], None],
        each_turn: bool = False,
        forms: Forms = ANY_FORM,
    ) -> None:
        """An executor without a copy of the model.

        Args:
            settings: of the model.
            decision: mode and batching.
            log: where notices go.
            lost: told when a copy is of no more use, why, and with which jobs; the copy is forgotten already.
            forms: what answers look like; a batch whose answer looks otherwise is tried again request by request.
            each_turn: run batches at the end of an event-loop turn, not at once; copies then answer inside `ask`.
        """
        self._settings = settings
        self._timeout_s = settings.serve.timeout_s
        self._log = log
        self._lost = lost
        self._each_turn = each_turn
        self._forms = forms
        self._loop = asyncio.get_running_loop()
        self._policy: Policy[Job] = Policy(Limits())
        self._copies: dict[int, Copy] = {}
        self._changed = asyncio.Event()
        self._busy: set[Copy] = set()
        self._retiring: dict[int, Callable[[], None]] = {}
        self._pump_due = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._fruitless = 0
        self.decide(decision)

    # --- what the front sees ------------------------------------------------------------------------------------------
    @property
    def mode(self) -> str:
        """inline, thread or workers."""
        return self.decision.mode

    @property
    def workers(self) -> int:
        """How many copies of the model can be asked now."""
        return len(self._copies)

    @property
    def waiting(self) -> int:
        """How many requests have not reached the model yet."""
        return len(self._policy)

    def decide(self, decision: Decision) -> None:
        """From now on batch, or do not, as `decision` says."""
        self.decision = decision
        self._batching = decision.max_batch_rows > 1
        self._row_model = self._batching or self._settings.call in ("array", "columns")
        fixed_s = 0.0 if self._each_turn else decision.fixed_s
        self._policy.limits = Limits(decision.max_batch_rows, MAX_BATCH_BYTES, fixed_s)

    async def wait_for_workers(self, count: int) -> None:
        """Return once `count` copies of the model can be asked."""
        while self.workers < count:
            self._changed.clear()
            await self._changed.wait()

    async def infer(self, exchange: Exchange, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The model's outputs for `inputs`; notes rows and times in `exchange`.

        Raises:
            Refusal: 400, 429, 500, 503 or 504, worded for the client.
        """
        size = len(inputs[0].data) if len(inputs) == 1 else sum([len(tensor.data) for tensor in inputs])
        policy = self._policy
        if len(policy) >= MAX_QUEUED or policy.queued_bytes + size > MAX_QUEUED_BYTES:
            raise Refusal(429, "too many requests are waiting", headers=RETRY)
        job = Job(exchange, inputs, Promise(), exchange.entered_s or time.monotonic())
        rows = row_count(inputs)
        job.rows = exchange.rows = rows or 1
        job.key = merge_key(inputs) if self._batching and rows else None
        job.size_bytes = size
        job.deadline_s = job.arrived_s + self._timeout_s
        policy.arrive(job)
        if self._each_turn:
            self._pump_soon()
        else:
            self._pump()
        try:
            return await job.answer
        except asyncio.CancelledError:
            policy.withdraw(job)
            raise

    # --- copies -------------------------------------------------------------------------------------------------------
    def add(self, copy: Copy) -> None:
        """Take a copy that has loaded the model."""
        self._copies[copy.number] = copy
        self._policy.free(copy.number)
        self._changed.set()
        self._pump()

    def remove(self, copy: Copy) -> None:
        """Forget a copy; what it works on is not touched."""
        if self._copies.get(copy.number) is copy:
            del self._copies[copy.number]
            self._policy.gone(copy.number)

    def retire(self, copy: Copy, idle: Callable[[], None]) -> None:
        """Give a copy nothing more; `idle` is called once it has finished what it has."""
        busy = copy in self._busy
        self.remove(copy)
        if busy:
            self._retiring[id(copy)] = idle
        else:
            idle()

    def refuse_waiting(self, refusal: Refusal) -> None:
        """Refuse every request that has not reached the model: nobody will come to take it."""
        for job in self._policy.drop_all():
            self._refuse(job, refusal)

    # --- work ---------------------------------------------------------------------------------------------------------
    def _pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Start everything that is to run now."""
        self._pump_due = False
        policy = self._policy
        while True:
            batch = policy.take(time.monotonic())
            if batch is None:
                break
            for job in batch.late:
                self._refuse(job, Refusal(503, "no worker was free in time", headers=RETRY))
            if batch.requests:
                self._start(batch)
                if self._each_turn and len(policy):
                    self._pump_soon()  # the loop sees to others between two batches
                    return
        if len(policy) and self._timer is None:
            wake_s = policy.wake_s
            wait_s = min(0.25, self._timeout_s / 4) if wake_s is None else wake_s - time.monotonic()
            self._timer = self._loop.call_later(max(LEAST_TIMER_S, wait_s), self._wake)

    def _wake(self) -> None:
        self._timer = None
        for job in self._policy.late(time.monotonic()):
            self._refuse(job, Refusal(503, "no worker was free in time", headers=RETRY))
        self._pump()

    def _start(self, batch: Batch[Job]) -> None:
        copy, jobs = self._copies[batch.copy], batch.requests
        started_s = time.monotonic()
        for job in jobs:
            job.started_s = started_s
        hang: Optional[asyncio.TimerHandle] = None
        if not self._each_turn:
            limit_s = self._timeout_s / 2 if len(jobs) > 1 else jobs[0].limit_s or self._timeout_s
            hang = self._loop.call_later(limit_s, copy.give_up)

        def done(answer: Answer) -> None:
            if hang is not None:
                hang.cancel()
            self._finish(copy, batch, answer, time.monotonic() - started_s)

        self._busy.add(copy)
        copy.ask(jobs, batch.rows, done)

    def _finish(self, copy: Copy, batch: Batch[Job], answer: Answer, predict_s: float) -> None:
        """Answer the callers of a batch, then let its copy go on."""
        jobs = batch.requests
        self._busy.discard(copy)
        if isinstance(answer, Failure):
            self._fail(jobs, answer, predict_s)
        else:
            try:
                self._give(jobs, answer, batch.rows, predict_s)
            except RowCountError as error:
                self._fail(jobs, Failure("rows", str(error)), predict_s)
            except FormError:
                self._fail(jobs, Failure("form"), predict_s)
        idle = self._retiring.pop(id(copy), None)
        if isinstance(answer, Failure) and answer.kind in ("gone", "hung"):
            self.remove(copy)
            self._lost(copy, answer.message, jobs)
        elif self._copies.get(copy.number) is copy:
            answered = 0 if isinstance(answer, Failure) else len(jobs)
            self._policy.done(copy.number, answered, predict_s, time.monotonic())
        if idle is not None:
            idle()
        if self._each_turn:
            if len(self._policy):
                self._pump_soon()
        else:
            self._pump()

    def _give(self, jobs: Sequence[Job], outputs: list[Tensor], rows: int, predict_s: float) -> None:
        if self._row_model:
            check_rows(outputs, rows)
        if len(jobs) > 1 and not self._forms.fit(outputs):
            raise FormError
        answers = [own(outputs)] if len(jobs) == 1 else split(outputs, [job.rows for job in jobs])
        for job in jobs:
            if job.trial is not None:
                self._conclude(job)
        for job, answer in zip(jobs, answers):
            if not job.answer.done():
                exchange = job.exchange
                exchange.batch_rows = rows
                exchange.queue_s = job.started_s - job.arrived_s
                exchange.compute_s = predict_s
                exchange.outputs = answer
                job.answer.set_result(answer)

    # --- failures -----------------------------------------------------------------------------------------------------
    def _fail(self, jobs: Sequence[Job], failure: Failure, predict_s: float) -> None:
        if len(jobs) == 1:
            job = jobs[0]
            job.exchange.batch_rows, job.exchange.compute_s = job.rows, predict_s
            job.exchange.queue_s = job.started_s - job.arrived_s
            job.trial = None  # it fails alone as well: the batch was not to blame
            if failure.kind == "rows":
                self._log.error(
                    "the model answered with another number of rows",
                    request=job.exchange.request_id,
                    reason=failure.message,
                )
            self._refuse(job, self._refusal(failure, job))
            return
        waiting = [job for job in jobs if not job.answer.done()]
        trial = None
        if failure.kind in ("rows", "model", "input"):
            trial = _Trial(len(waiting), failure.message, FRUITLESS_BATCHES if failure.kind == "rows" else 1)
        for job in waiting:
            job.trial = trial
            if failure.kind in ("gone", "hung"):
                job.deadline_s += self._timeout_s
            if failure.kind == "hung":
                share_s = max(self._timeout_s / 2 / len(waiting), self._timeout_s / LEAST_SHARE)
                job.limit_s = max(share_s, 10 * self.decision.predict_1_s)
                job.limit_s = min(job.limit_s, self._timeout_s)
        middle = len(waiting) // 2
        halves = [waiting[:middle], waiting[middle:]] if trial is not None else [[job] for job in waiting]
        self._policy.again([group for group in halves if group])

    def _refusal(self, failure: Failure, job: Job) -> Refusal:
        if failure.kind == "input":
            return Refusal(400, failure.message)
        if failure.kind == "hung":
            limit_s = job.limit_s or self._timeout_s
            return Refusal(504, f"the model did not answer within {limit_s:g} s")
        if failure.kind == "gone":
            return Refusal(500, "the model process ended while it worked on this request")
        return Refusal(500, "the model failed on this request")

    @staticmethod
    def _refuse(job: Job, refusal: Refusal) -> None:
        if not job.answer.done():
            job.answer.set_exception(refusal)

    def _conclude(self, job: Job) -> None:
        """A request of a failed batch succeeded; when all of them do, the batch was to blame."""
        trial, job.trial = job.trial, None
        assert trial is not None
        trial.left -= 1
        if trial.left == 0:
            self._fruitless += trial.weight
            if self._fruitless >= FRUITLESS_BATCHES and self._batching:
                why = "requests failed together and succeeded alone"
                self._log.warning("batching is turned off", reason=trial.why or why)
                self.decide(replace(self.decision, max_batch_rows=1, batching=f"off: {why}"))
