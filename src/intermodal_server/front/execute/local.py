"""The model inside the front: its packages found, its threads counted, its files verified and loaded.

Takes options and settings, hands on a loaded backend and copies of the model for the batcher. `InlineModel` answers in
the event loop, `ModelThread` in a thread of its own, in which the model is also loaded.

Rules, in order: the front's packages come first on the path, then the user's code, then the model's packages with their
.pth files, so that the front runs with what it was locked with; thread counts are set before anything can import numpy.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any, Callable, Optional

from intermodal_server import contract
from intermodal_server.contract import ModelSettings
from intermodal_server.front.execute.batcher import Job
from intermodal_server.log import Log, in_words
from intermodal_server.options import Options, front_site
from intermodal_server.placement import model_site
from intermodal_server.rows import merge
from intermodal_server.tensors import Tensor
from intermodal_server.worker.backends.interface import Backend
from intermodal_server.worker.call import Answer, Failure, call
from intermodal_server.worker.measure import measure
from intermodal_server.worker.measured import Measured
from intermodal_server.worker.model import LoadError, load_model
from intermodal_server.worker.threads import set_threads


def load(options: Options, settings: ModelSettings, threads: int, log: Log) -> Backend:
    """The loaded model.

    Raises:
        LoadError: it cannot be loaded here; the message says why.
    """
    set_threads(threads)
    app_dir = options.path(contract.APP_DIR)
    if os.path.isdir(app_dir) and app_dir not in sys.path:
        sys.path.insert(1 if front_site(options) else 0, app_dir)
    folder, _ = model_site(options)
    if folder:
        import site

        site.addsitedir(folder)
    return load_model(settings, options.path(contract.MODEL_DIR), app_dir, threads=threads, strict=True, log=log)


class InlineModel:
    """The model in the event loop: asked and answered in one go."""

    number = 1

    def __init__(self, backend: Backend, log: Log) -> None:
        self._backend = backend
        self._log = log

    def ask(self, jobs: Sequence[Job], rows: int, done: Callable[[Answer], None]) -> None:
        """Answer at once."""
        done(_call(self._backend, jobs, rows, self._log))

    def give_up(self) -> None:
        """Nothing: a hung event loop is the supervisor's business."""


class ModelThread:
    """The model in a thread, which loads it, too."""

    number = 1

    def __init__(self, make: Callable[[], Backend], log: Log) -> None:
        self._make = make
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._tasks: queue.SimpleQueue[Optional[Callable[[], None]]] = queue.SimpleQueue()
        self._backend: Optional[Backend] = None
        self._done: Optional[Callable[[Answer], None]] = None
        self._turn = 0
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            task()

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():  # else the front has ended, and nobody waits
            self._loop.call_soon_threadsafe(callback, *arguments)

    async def load(self, settings: ModelSettings, cases: Sequence[Any], known: Optional[Measured]) -> Measured:
        """Load the model and measure it, unless that is `known`; the event loop goes on meanwhile.

        Raises:
            LoadError: it cannot be loaded.
        """
        future: asyncio.Future[Measured] = self._loop.create_future()

        def work() -> None:
            """Load, and measure what is not known."""
            begin_s = time.monotonic()
            try:
                self._backend = self._make()
                load_s = time.monotonic() - begin_s
                found = known or measure(self._backend, settings, cases, load_s=load_s, mode=False)
            except LoadError as error:
                self._post(_set_exception, future, error)
            except BaseException as error:  # a model may raise anything while it loads, SystemExit too
                reason = f"the model cannot be loaded: {in_words(error)}"
                self._post(_set_exception, future, LoadError(reason, traceback.format_exc()))
            else:
                self._post(_set_result, future, found)

        self._tasks.put(work)
        return await future

    @property
    def backend(self) -> Backend:
        """The model, once loaded."""
        assert self._backend is not None
        return self._backend

    def ask(self, jobs: Sequence[Job], rows: int, done: Callable[[Answer], None]) -> None:
        """Hand a batch to the thread."""
        self._done, self._turn = done, self._turn + 1
        turn = self._turn

        def work() -> None:
            answer = _call(self.backend, jobs, rows, self._log)
            self._post(self._conclude, turn, answer)

        self._tasks.put(work)

    def _conclude(self, turn: int, answer: Answer) -> None:
        done = self._done
        if done is not None and turn == self._turn:
            self._done = None
            done(answer)

    def give_up(self) -> None:
        """A thread cannot be ended: the batch is answered, the process has to be replaced."""
        self._conclude(self._turn, Failure("hung", "no answer in time"))

    def another(self) -> ModelThread:
        """A thread with the same model, for one that hangs."""
        thread = ModelThread(self._make, self._log)
        thread._backend = self._backend
        self.close()  # should it ever come back
        return thread

    def close(self) -> None:
        """End the thread after what it does now."""
        self._tasks.put(None)


def _call(backend: Backend, jobs: Sequence[Job], rows: int, log: Log) -> Answer:
    inputs: Sequence[Tensor] = jobs[0].inputs
    if len(jobs) > 1:
        inputs = merge([job.inputs for job in jobs], rows)
    return call(backend, inputs, [job.exchange.request_id for job in jobs], log)


def _set_result(future: asyncio.Future[Measured], found: Measured) -> None:
    if not future.done():
        future.set_result(found)


def _set_exception(future: asyncio.Future[Measured], error: LoadError) -> None:
    if not future.done():
        future.set_exception(error)
