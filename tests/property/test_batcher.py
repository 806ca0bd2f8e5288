"""Any mix of requests through the real batcher and a real model function: everybody gets exactly his own rows.

The model runs in this process, in each of the ways the front can run one: in the event loop, in a thread, and as
several copies that answer out of order and die. Callers go away, time runs out, requests make the model raise, answer
with the wrong number of rows, or end its process; whoever did none of that is answered as if alone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intermodal_server.contract import ModelSettings, ServeSettings, Signature, TensorSpec
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute.batcher import Batcher, Copy, Job
from intermodal_server.front.execute.decide import Decision
from intermodal_server.front.execute.local import InlineModel, ModelThread
from intermodal_server.front.limits import Refusal
from intermodal_server.log import Log
from intermodal_server.rows import merge
from intermodal_server.tensors import Tensor, TensorError, decode, encode
from intermodal_server.worker.call import Answer, Failure, call

RAISES, REFUSES, MISCOUNTS, KILLS = 901, 902, 903, 904
SIGNATURE = Signature((TensorSpec("x", "INT64", (-1, -1)),), ())


class Ended(BaseException):
    """What stands for the end of the model's process."""


class Model:
    """Answers each row by its sum and by its text; counts how often it was asked and with how many rows at most."""

    def __init__(self) -> None:
        self.calls = 0
        self.most = 0

    def load(self, load: Any) -> None:
        raise NotImplementedError

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (x,) = tensors
        count, width = x.shape
        values = decode(x.data, "INT64", "x")
        rows = [values[i * width : (i + 1) * width] for i in range(count)]
        self.calls += 1
        self.most = max(self.most, count)
        if RAISES in values:
            raise ValueError("raises")
        if REFUSES in values:
            raise TensorError("refuses")
        if KILLS in values:
            raise Ended
        if MISCOUNTS in values:
            rows = rows[1:]
        sums = [sum(row) for row in rows]
        texts = ["-".join(map(str, row)) for row in rows]
        return [
            Tensor("sum", "INT64", (len(rows),), encode(sums, "INT64", "sum")),
            Tensor("text", "BYTES", (len(rows), 1), encode(texts, "BYTES", "text")),
        ]


class Process:
    """A copy that answers later, out of order with its neighbours, and dies of KILLS; as a worker would."""

    def __init__(self, number: int, model: Model) -> None:
        self.number = number
        self._model = model
        self._dead = False

    def ask(self, jobs: Sequence[Job], rows: int, done: Any) -> None:
        inputs = merge([job.inputs for job in jobs], rows)

        def work() -> None:
            answer: Answer
            try:
                answer = self._model.predict(inputs)
            except TensorError as error:
                answer = Failure("input", str(error))
            except Ended:
                answer = Failure("gone", "it ended")
            except ValueError:
                answer = Failure("model")
            done(answer)

        asyncio.get_running_loop().call_later(0.0003 * (self.number % 3), work)

    def give_up(self) -> None:
        raise AssertionError("nothing takes that long")


class World:
    """A batcher over one way to run the model, which replaces dead copies."""

    def __init__(self, mode: str, rows: int, log: Log) -> None:
        self.model = Model()
        serve = ServeSettings(timeout_s=20.0)
        model = ModelSettings("m", "1", "predictor", "predictor", "", SIGNATURE, call="array", serve=serve)
        self.batcher = Batcher(model, Decision(mode, "", rows, "on"), log, lost=self._lost, each_turn=mode == "inline")
        self.thread: ModelThread | None = None
        self._next = 1
        if mode == "inline":
            self.batcher.add(InlineModel(self.model, log))
        elif mode == "thread":
            self.thread = ModelThread(lambda: self.model, log)
            self.thread._backend = self.model
            self.batcher.add(self.thread)
        else:
            for _ in range(2):
                self._start()

    def _start(self) -> None:
        self.batcher.add(Process(self._next, self.model))
        self._next += 1

    def _lost(self, copy: Copy, why: str, jobs: Sequence[Job]) -> None:
        asyncio.get_running_loop().call_soon(self._start)


def expected(rows: list[list[int]]) -> tuple[list[int], list[bytes]]:
    return [sum(row) for row in rows], ["-".join(map(str, row)).encode() for row in rows]


async def ask(world: World, rows: list[list[int]]) -> tuple[list[int], list[bytes]]:
    data = encode([value for row in rows for value in row], "INT64", "x")
    exchange = Exchange.own("live")
    outputs = await world.batcher.infer(exchange, [Tensor("x", "INT64", (len(rows), len(rows[0])), data)])
    assert [output.name for output in outputs] == ["sum", "text"]
    assert outputs[0].shape == (len(rows),) and outputs[1].shape == (len(rows), 1)
    assert exchange.rows == len(rows) and exchange.batch_rows >= len(rows)
    return list(struct.unpack(f"<{len(rows)}q", outputs[0].data)), decode(outputs[1].data, "BYTES", "text")


VALUES = st.integers(-(2**31), 2**31).filter(lambda value: value not in (RAISES, REFUSES, MISCOUNTS, KILLS))
PLAIN = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=5)
)
CALLERS = st.lists(
    st.tuples(
        PLAIN,
        st.sampled_from([0] * 8 + [RAISES, REFUSES, MISCOUNTS, KILLS]),
        st.sampled_from(["stays"] * 5 + ["leaves at once", "leaves later", "is late"]),
        st.integers(0, 3),  # turns of the loop before it asks
    ),
    min_size=1,
    max_size=24,
)
ANSWER_TO = {RAISES: 500, REFUSES: 400, MISCOUNTS: 500, KILLS: 500}


async def one_caller(world: World, rows: list[list[int]], fault: int, conduct: str, turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    if fault:
        rows = [list(rows[0]), *rows[1:]]
        rows[0][0] = fault
    task = asyncio.ensure_future(ask(world, rows))
    if conduct.startswith("leaves"):
        await asyncio.sleep(0 if conduct == "leaves at once" else 0.0004)
        task.cancel()
    if conduct == "is late":
        await asyncio.sleep(0)
        for job in list(world.batcher._policy._queue):
            if job.answer is not None and list(job.inputs[0].shape) == [len(rows), len(rows[0])]:
                job.deadline_s = 0.0  # its time is over while it waits; others of its shape are late as well
    try:
        answer = await task
    except asyncio.CancelledError:
        assert conduct.startswith("leaves")
    except Refusal as refusal:
        late = refusal.status == 503
        assert late or (fault and refusal.status == ANSWER_TO[fault]), (refusal.status, fault)
    else:
        assert not fault
        assert answer == expected(rows)


async def crowd(mode: str, rows: int, callers: list[Any], log: Log) -> World:
    world = World(mode, rows, log)
    await asyncio.wait_for(asyncio.gather(*[one_caller(world, *caller) for caller in callers]), 30)
    await asyncio.sleep(0)
    assert world.batcher.waiting == 0
    assert world.batcher._policy.queued_rows == world.batcher._policy.queued_bytes == 0
    if world.thread is not None:
        world.thread.close()
    return world


@pytest.mark.parametrize("mode", ["inline", "thread", "workers"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(callers=CALLERS, rows=st.sampled_from([1, 4, 64]))
def test_everybody_gets_his_own_rows(mode: str, callers: list[Any], rows: int, quiet: Log) -> None:
    if mode != "workers":  # there the end of a process would be that of this test
        callers = [(plain, 0 if fault == KILLS else fault, *rest) for plain, fault, *rest in callers]
    asyncio.run(crowd(mode, rows, callers, quiet))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with (tmp_path_factory.mktemp("log") / "log").open("wb") as file:
        yield Log("test", file.fileno())


@pytest.mark.parametrize("mode", ["inline", "thread", "workers"])
def test_together_means_together(mode: str, quiet: Log) -> None:
    callers = [([[i, i + 1]], 0, "stays", 0) for i in range(20)]
    world = asyncio.run(crowd(mode, 64, callers, quiet))
    assert world.model.most >= 10 and world.model.calls <= 6


@pytest.mark.parametrize("mode", ["inline", "thread", "workers"])
def test_one_at_fault_is_found_by_halves(mode: str, quiet: Log) -> None:
    callers = [([[i, RAISES if i == 5 else i]], 0 if i != 5 else RAISES, "stays", 0) for i in range(10)]
    world = asyncio.run(crowd(mode, 64, callers, quiet))
    assert world.batcher.decision.max_batch_rows == 64
    assert world.model.calls <= 12


class OnlyAlone(Model):
    """Answers with the wrong number of rows, or not at all, whenever requests come together."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        outputs = super().predict(tensors)
        if tensors[0].shape[0] == 1:
            return outputs
        if self.how == "raises":
            raise ValueError("more than one row")
        return [Tensor(t.name, t.datatype, (1, *t.shape[1:]), t.data[:8]) for t in outputs[:1]]


@pytest.mark.parametrize(("how", "rounds"), [("miscounts", 1), ("raises", 3)])
def test_what_fails_together_and_works_alone_turns_batching_off(how: str, rounds: int, tmp_path: Any) -> None:
    async def run(log: Log) -> list[int]:
        world = World("workers", 64, log)
        world.model.__class__ = OnlyAlone
        world.model.how = how  # type: ignore[attr-defined]
        limits = []
        for _ in range(rounds):
            assert await asyncio.gather(*[ask(world, [[i]]) for i in range(4)]) == [expected([[i]]) for i in range(4)]
            limits.append(world.batcher.decision.max_batch_rows)
        return limits

    with (tmp_path / "log").open("wb") as file:
        limits = asyncio.run(run(Log("test", file.fileno())))
    assert limits[-1] == 1 and limits[0] == (64 if rounds > 1 else 1)
    assert "batching is turned off" in (tmp_path / "log").read_text()


def test_a_call_never_raises_and_tells_no_client_why(quiet: Log) -> None:
    class Exits(Model):
        def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
            raise SystemExit(3)

    assert call(Exits(), [], ["a"], quiet) == Failure("model")
