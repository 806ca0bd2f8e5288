"""Requests without tasks: whatever they wait for, they go on, end, and are ended as tasks would be."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from intermodal_server.front import stepping
from intermodal_server.front.stepping import Promise, Stepper


def _in_loop(work: Coroutine[Any, Any, None]) -> list[dict[str, Any]]:
    """Run `work`; what reached the event loop's handler of errors."""
    caught: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
        await work

    asyncio.run(run())
    return caught


def _step(coroutine: Coroutine[Any, Any, None]) -> Stepper:
    stepper = Stepper(coroutine, asyncio.get_running_loop())
    stepper.step()
    return stepper


@pytest.mark.parametrize("first", [False, True], ids=["straight away", "after something else"])
@pytest.mark.parametrize("early", [False, True], ids=["kept later", "kept before"])
def test_a_promise_is_awaited(first: bool, early: bool) -> None:
    found: list[object] = []

    async def request(promise: Promise[int]) -> None:
        if first:
            await asyncio.sleep(0)
        found.append(await promise)
        await asyncio.sleep(0)
        found.append("end")

    async def work() -> None:
        promise: Promise[int] = Promise()
        if early:
            promise.set_result(7)
        _step(request(promise))
        if not early:
            await asyncio.sleep(0.01)
            assert not found and not promise.done()
            promise.set_result(7)
            assert found == [7] or first, "a stepper goes on before `set_result` returns"
        await asyncio.sleep(0.01)

    assert _in_loop(work()) == []
    assert found == [7, "end"]


def test_an_error_is_raised_where_it_is_awaited_and_one_that_nobody_catches_is_told_to_the_loop() -> None:
    found: list[str] = []

    async def request(promise: Promise[int]) -> None:
        try:
            await promise
        except ValueError as error:
            found.append(str(error))
        raise LookupError("nobody")

    async def work() -> None:
        promise: Promise[int] = Promise()
        _step(request(promise))
        promise.set_exception(ValueError("no rows"))  # must not raise here
        assert stepping._now == [None]

    (told,) = _in_loop(work())
    assert found == ["no rows"] and isinstance(told["exception"], LookupError)


@pytest.mark.parametrize("first", [False, True], ids=["a stepper", "a task by now"])
def test_who_is_cancelled_learns_of_it_once_and_the_promise_may_still_be_kept(first: bool) -> None:
    found: list[str] = []

    async def request(promise: Promise[int]) -> None:
        if first:
            await asyncio.sleep(0)
        try:
            await promise
        except asyncio.CancelledError:
            found.append("cancelled")
            raise
        finally:
            found.append("end")

    async def work() -> None:
        promise: Promise[int] = Promise()
        stepper = _step(request(promise))
        await asyncio.sleep(0.01)
        stepper.cancel()
        stepper.cancel()
        await asyncio.sleep(0.01)
        assert promise.done(), "who keeps it need not any more"
        promise.set_result(1)
        stepper.cancel()
        await asyncio.sleep(0.01)

    assert _in_loop(work()) == []
    assert found == ["cancelled", "end"]


def test_one_that_keeps_another_ones_promise_goes_on_as_itself() -> None:
    found: list[str] = []

    async def waits(promise: Promise[str]) -> None:
        found.append(await promise)

    async def keeps(promise: Promise[str], own: Promise[str]) -> None:
        promise.set_result("first")
        found.append(await own)

    async def work() -> None:
        promise: Promise[str] = Promise()
        own: Promise[str] = Promise()
        _step(waits(promise))
        _step(keeps(promise, own))
        assert found == ["first"]
        own.set_result("second")

    assert _in_loop(work()) == []
    assert found == ["first", "second"]
