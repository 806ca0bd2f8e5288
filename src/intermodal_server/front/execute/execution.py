"""The executor that the front holds: finds out where the model runs, brings it there, passes requests on.

Takes what the supervisor says about workers, hands on outputs; tells the supervisor when no workers are wanted.

From start to the first answer, in order:
1. Where nothing but workers will do, or they were asked for, links are taken as they come; the first brings what its
   worker measured, which decides about batching.
2. inline and thread, asked for by name: there are no workers; the model is loaded and measured here.
3. auto: one worker loads and measures. When it says that the model is light, the supervisor is told to end it, and
   the model is loaded here, where it stays; should that fail, the supervisor is told to start workers again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Callable, Optional

from intermodal_server.contract import GOLDEN_PATH, ModelSettings
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute.batcher import Batcher, Copy, Job
from intermodal_server.front.execute.decide import Decision, decide, decide_mode
from intermodal_server.front.execute.forms import Forms
from intermodal_server.front.execute.local import InlineModel, ModelThread, load
from intermodal_server.front.execute.workers import Workers
from intermodal_server.front.limits import Refusal
from intermodal_server.golden_file import GoldenError, read_cases
from intermodal_server.log import Log
from intermodal_server.options import Options
from intermodal_server.placement import IN_FRONT, only_workers
from intermodal_server.tensors import Tensor
from intermodal_server.worker.measured import Measured
from intermodal_server.worker.model import LoadError

UNDECIDED = Decision("workers", "not decided yet", 1, "off: not decided yet")


class Execution:
    """Where the model is, decided once; an `Executor`."""

    def __init__(
        self,
        options: Options,
        settings: ModelSettings,
        threads: int,
        tell: Callable[..., Any],
        log: Log,
        known: Optional[Measured] = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            options: of the start.
            settings: of the model.
            threads: how many a copy of the model in the front may use.
            tell: sends a message to the supervisor: a kind and fields.
            log: of the front.
            known: what an earlier front has measured.
        """
        self._known = known
        self._options = options
        self._settings = settings
        self._threads = threads
        self._tell = tell
        self._log = log
        self._forced = only_workers(options, settings)
        self._asked = "workers" if self._forced else settings.serve.mode
        self._decided = asyncio.Event()
        self._failure: Optional[LoadError] = None
        self._came: set[int] = set()  # process ids of workers that were of use
        self._workers = Workers(self._ask_to_kill, log)
        self._cases = self._golden_cases()
        self._forms = Forms.of(self._cases, settings.signature)
        self._batcher = self._workers.batcher = Batcher(
            settings, UNDECIDED, log, lost=self._workers.lost, forms=self._forms
        )

    def _golden_cases(self) -> list[dict[str, Any]]:
        try:
            return read_cases(self._options.path(GOLDEN_PATH))
        except GoldenError:  # the start check says so
            return []

    # --- an executor --------------------------------------------------------------------------------------------------
    @property
    def decision(self) -> Decision:
        """Where the model runs, whether requests go together, and why."""
        return self._batcher.decision

    @property
    def mode(self) -> str:
        """inline, thread or workers."""
        return self._batcher.mode

    @property
    def workers(self) -> int:
        """How many copies of the model can be asked now."""
        return self._batcher.workers

    @property
    def waiting(self) -> int:
        """How many requests have not reached the model yet."""
        return self._batcher.waiting

    def infer(self, exchange: Exchange, inputs: Sequence[Tensor]) -> Coroutine[Any, Any, list[Tensor]]:
        """The model's outputs for `inputs`; see `Batcher.infer`."""
        return self._batcher.infer(exchange, inputs)

    async def wait_for_workers(self, count: int) -> None:
        """Return once the model is where it belongs: `count` workers, or one copy here.

        Raises:
            LoadError: it cannot be loaded here.
        """
        await self._decided.wait()
        if self._failure is not None:
            raise self._failure
        await self._batcher.wait_for_workers(count if self.mode == "workers" else 1)

    # --- start --------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Load the model here when that is decided already."""
        if self._asked in IN_FRONT:
            await self._load(self._asked, "asked for")

    def _decide(self, measured: Optional[Measured]) -> None:
        """The first worker is there, and has measured."""
        mode, reason = decide_mode(self._settings.serve, self._forced, measured)
        if mode == "workers":
            self._batcher.decide(decide(self._settings.serve, mode, reason, measured))
            self._announce()
            return
        self._workers.close()
        self._came.clear()
        self._tell("mode", mode=mode)
        self._loading = asyncio.get_running_loop().create_task(self._load_or_go_back(mode, reason))

    async def _load_or_go_back(self, mode: str, reason: str) -> None:
        try:
            await self._load(mode, reason)
        except LoadError as error:
            self._log.warning("the front cannot load the model; a worker could", reason=str(error))
            self._asked = self._forced = "the front cannot load the model"
            self._tell("mode", mode="workers")

    async def _load(self, mode: str, reason: str) -> None:
        """Load and measure the model in a thread, then ask it there or in the event loop."""
        options, settings, log = self._options, self._settings, self._log
        threads = 1 if mode == "inline" else self._threads  # of so light a model a second one would mostly wait
        thread = ModelThread(lambda: load(options, settings, threads, log), log)
        try:
            measured = await thread.load(settings, self._cases, self._known)
        except LoadError as error:
            thread.close()
            log.error("the model cannot be loaded", reason=str(error), traceback=error.details)
            if reason != "asked for":
                raise
            self._failure = error
            self._decided.set()
            return
        log.info("model loaded", model=settings.name, backend=settings.backend, python=sys.version.split()[0])
        self._tell("measured", measured=measured.as_json())  # for those that come after this front
        decision = decide(settings.serve, mode, reason, measured)
        inline = mode == "inline"
        self._batcher = Batcher(settings, decision, log, lost=self._lost_here, each_turn=inline, forms=self._forms)
        self._batcher.add(InlineModel(thread.backend, log) if inline else thread)
        if inline:
            thread.close()
        self._announce()

    def _announce(self) -> None:
        self._decided.set()
        self._log.info("execution decided", **self.decision.as_json())

    # --- workers come and go ------------------------------------------------------------------------------------------
    def worker_came(self, number: int, pid: int, descriptor: int, measured: Any) -> bool:
        """The supervisor hands over a worker that has loaded the model, and what it measured, if it did.

        Returns:
            Whether it stays.
        """
        if self._batcher is not self._workers.batcher:  # the model is here already
            os.close(descriptor)
            return False
        self._came.add(pid)
        self._workers.add(number, pid, descriptor)
        found = Measured.from_json(measured)
        everybody = len(self._came) >= self._settings.serve.workers  # a trial that ended its process is not repeated
        if not self._decided.is_set() and (found is not None or everybody):
            self._decide(found)
        return pid in self._came

    def worker_gone(self, pid: int) -> bool:
        """The supervisor has buried a worker; whether it had come and stayed."""
        self._workers.remove(pid)
        known = pid in self._came
        self._came.discard(pid)
        return known

    def refuse_waiting(self, refusal: Refusal) -> None:
        """Refuse every request that has not reached the model: nobody will come to take it."""
        self._batcher.refuse_waiting(refusal)

    async def release(self, pid: int) -> None:
        """Give a worker no further request; return when it has answered what it has."""
        await self._workers.release(pid)

    def _ask_to_kill(self, pid: int, reason: str) -> None:
        self._tell("kill", pid=pid, reason=reason)

    # --- the model here hangs -----------------------------------------------------------------------------------------
    def _lost_here(self, copy: Copy, why: str, jobs: Sequence[Job]) -> None:
        """The thread hangs and nobody can end it: another one goes on, until another front can take over."""
        ids = [job.exchange.request_id for job in jobs]
        self._log.error("the model hangs; the front is replaced", request=ids[0], batch=len(ids), reason=why)
        assert isinstance(copy, ModelThread)
        self._batcher.add(copy.another())
        self._tell("kill", pid=os.getpid(), reason=why)
