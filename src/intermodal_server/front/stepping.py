"""Run a request without a task, for as long as it waits for nothing but the model.

Takes the coroutine of a request, runs it up to its first wait; who keeps what it waits for (a `Promise`) runs
it on. A task for every request costs more than anything else that the front does for it: an object, a place in a weak
set, and two turns of the event loop.

Rules, in order: what waits for anything but a promise becomes a task there and then, and stays one; a promise that is
awaited in a task is as good as a future; an exception that nobody expected goes to the event loop's handler, never to
who kept the promise.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Generic, Optional, TypeVar

T = TypeVar("T")


class Stepper:
    """One coroutine on its way."""

    __slots__ = ("_coroutine", "_loop", "_promise", "_send", "_task")

    def __init__(self, coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        """Nothing runs before the first `step`."""
        self._coroutine = coroutine
        self._send = coroutine.send
        self._loop = loop
        self._promise: Optional[Promise[Any]] = None
        self._task: Optional[asyncio.Task[None]] = None

    def step(self, error: Optional[BaseException] = None) -> None:
        """Run on, up to the next wait."""
        before, _now[0] = _now[0], self
        try:
            waits = self._send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            return
        except asyncio.CancelledError:
            return
        except Exception as problem:
            what = {"message": "a request ended with an error that nobody caught", "exception": problem}
            self._loop.call_exception_handler(what)
            return
        finally:
            _now[0] = before
        if type(waits) is Promise:
            self._promise = waits
        else:
            self._task = self._loop.create_task(_rest(self._coroutine, waits))

    def cancel(self) -> None:
        """Raise `CancelledError` where it waits."""
        promise, self._promise = self._promise, None
        if self._task is not None:
            self._task.cancel()
        elif promise is not None and promise.forget(self):
            self.step(asyncio.CancelledError())


# whose coroutine runs at this moment, if it is no task; an attribute of the class would cost its methods their caches
_now: list[Optional[Stepper]] = [None]


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, None], waits: Any) -> Generator[Any, Any, None]:
    """What is left of a coroutine that has begun, and waits for something now."""
    try:
        while True:
            try:
                given = yield waits
            except BaseException as error:
                waits = coroutine.throw(error)
            else:
                waits = coroutine.send(given)
    except StopIteration:
        return


class Promise(Generic[T]):
    """A result that is to come; awaited once."""

    __slots__ = ("_done", "_error", "_future", "_stepper", "_value")

    def __init__(self) -> None:
        self._done = False
        self._value: Optional[T] = None
        self._error: Optional[BaseException] = None
        self._stepper: Optional[Stepper] = None
        self._future: Optional[asyncio.Future[None]] = None

    def done(self) -> bool:
        """Whether it has come."""
        return self._done

    def set_result(self, value: T) -> None:
        """It has come; who waits runs on before this returns, unless it is a task."""
        self._value = value
        self._keep()

    def set_exception(self, error: BaseException) -> None:
        """It will never come."""
        self._error = error
        self._keep()

    def _keep(self) -> None:
        self._done = True
        stepper, future = self._stepper, self._future
        if stepper is not None:
            self._stepper = None
            stepper.step()
        elif future is not None and not future.done():
            future.set_result(None)

    def forget(self, stepper: Stepper) -> bool:
        """Whether `stepper` waits for it still; from now on it does not."""
        if self._stepper is not stepper:
            return False
        self._stepper, self._done = None, True  # whoever keeps it need not any more
        return True

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            stepper = _now[0]
            if stepper is not None:
                self._stepper = stepper
                yield self
            else:
                self._future = asyncio.get_running_loop().create_future()
                try:
                    yield from self._future
                except asyncio.CancelledError:
                    self._done = True
                    raise
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
