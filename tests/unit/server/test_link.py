"""Front and worker over a real connection: tensors of every size come through whole, and odd workers are found out."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from intermodal_server import slab
from intermodal_server.frames import SLAB_LEAST_BYTES, FrameError, pack, parse_header
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute import link as link_module
from intermodal_server.front.execute.batcher import Job
from intermodal_server.front.execute.link import WorkerLink
from intermodal_server.log import Log
from intermodal_server.tensors import Tensor, encode
from intermodal_server.worker.call import Answer, Failure
from intermodal_server.worker.loop import serve

SIZES = [0, 1, 7, SLAB_LEAST_BYTES - 1, SLAB_LEAST_BYTES, 300_000, 5_000_000]


class Echo:
    """Gives back its inputs; keeps those of the last request when told to."""

    def __init__(self, keeps: bool = False) -> None:
        self.keeps = keeps
        self.kept: list[Any] = []

    def load(self, load: Any) -> None:
        raise NotImplementedError

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if self.keeps:
            self.kept += [
                (ctypes.c_char * len(t.data)).from_buffer(t.data) for t in tensors
            ]  # as numpy.frombuffer does
        return [Tensor(f"{t.name}!", t.datatype, t.shape, bytes(t.data)) for t in tensors]


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Log]:
    with (tmp_path / "log").open("wb") as file:
        yield Log("test", file.fileno())


def job(*tensors: Tensor) -> Job:
    made = Job(Exchange.own("live"), tensors, asyncio.get_running_loop().create_future(), 0.0)
    made.rows = tensors[0].shape[0]
    return made


def data_of(size: int, seed: int) -> bytes:
    return bytes((i * 31 + seed) % 251 for i in range(min(size, 1000))) * (size // 1000 + 1)


def tensor(size: int, seed: int = 0, name: str = "x") -> Tensor:
    return Tensor(name, "UINT8", (1, size), data_of(size, seed)[:size])


async def asked(connected: WorkerLink, *jobs: Job) -> Answer:
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    connected.ask(jobs, sum(each.rows for each in jobs), answer.set_result)
    return await asyncio.wait_for(answer, 30)


def talk(model: Any, log: Log, conversation: Callable[[WorkerLink], Any]) -> list[WorkerLink]:
    """Run a conversation with a real worker loop; the links that were lost while idle."""
    ours, theirs = socket.socketpair()
    worker = threading.Thread(target=serve, args=(theirs, model, log))
    lost: list[WorkerLink] = []

    async def main() -> None:
        connected = WorkerLink(1, 0, ours.detach(), lost.append)
        worker.start()
        try:
            await conversation(connected)
        finally:
            connected.close()

    asyncio.run(main())
    worker.join()
    theirs.close()
    return lost


@pytest.mark.parametrize("shared", [True, False])
def test_tensors_of_every_size_come_through_whole(shared: bool, quiet: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shared:
        monkeypatch.setattr(link_module, "supported", lambda: False)
    assert slab.supported()

    async def conversation(connected: WorkerLink) -> None:
        for seed, size in enumerate([*SIZES, *reversed(SIZES)]):
            answer = await asked(connected, job(tensor(size, seed), tensor(size // 2, seed + 1, "y")))
            assert isinstance(answer, list), answer
            assert [(t.name, t.shape) for t in answer] == [("x!", (1, size)), ("y!", (1, size // 2))]
            assert answer[0].data == data_of(size, seed)[:size]
            assert answer[1].data == data_of(size // 2, seed + 1)[: size // 2]

    assert talk(Echo(), quiet, conversation) == []


@pytest.mark.parametrize("size", [10, 1000, 50_000])
def test_several_requests_arrive_as_one(size: int, quiet: Log) -> None:
    async def conversation(connected: WorkerLink) -> None:
        words = Tensor("w", "BYTES", (1,), encode(["wörd"], "BYTES", "w"))
        jobs = [job(tensor(size, seed), words) for seed in range(600 if size < 1000 else 40)]
        answer = await asked(connected, *jobs)
        assert isinstance(answer, list)
        assert answer[0].shape == (len(jobs), size) and answer[1].shape == (len(jobs),)
        assert answer[0].data == b"".join(each.inputs[0].data for each in jobs)
        assert answer[1].data == words.data * len(jobs)

    talk(Echo(), quiet, conversation)


def test_a_model_may_keep_its_inputs(quiet: Log, tmp_path: Path) -> None:
    model = Echo(keeps=True)

    async def conversation(connected: WorkerLink) -> None:
        for seed in range(4):
            answer = await asked(connected, job(tensor(200_000, seed)))
            assert isinstance(answer, list) and answer[0].data == data_of(200_000, seed)[:200_000]

    talk(model, quiet, conversation)
    assert [bytes(kept) for kept in model.kept] == [data_of(200_000, seed)[:200_000] for seed in range(4)]
    assert (tmp_path / "log").read_text().count("it gets copies from now on") == 1


def test_memory_of_a_giant_is_given_back(quiet: Log) -> None:
    async def conversation(connected: WorkerLink) -> None:
        answer = await asked(connected, job(tensor(60_000_000)))
        assert isinstance(answer, list) and len(answer[0].data) == 60_000_000
        assert connected._requests is not None
        held = os.fstat(connected._requests.descriptor).st_blocks * 512
        assert held <= slab.KEPT_BYTES
        answer = await asked(connected, job(tensor(40_000_000, 5)))
        assert isinstance(answer, list) and answer[0].data == data_of(40_000_000, 5)[:40_000_000]

    talk(Echo(), quiet, conversation)


def test_nobody_can_take_the_memory_away() -> None:
    shared = slab.Slab.create()
    shared.reserve(1 << 20)
    with pytest.raises(OSError):
        os.ftruncate(shared.descriptor, 10)
    with pytest.raises(slab.SlabError):
        shared.view(0, 1 << 30)
    with pytest.raises(slab.SlabError):
        shared.view(-1, 1)
    shared.close()


GOOD = {"tensors": []}
ODD = [
    b"",
    b"\xff" * 8,
    b"".join(pack({"error": 1}, [], [])),
    b"".join(pack({}, [("x", "INT7", (1,), 1, -1)], [b"a"])),
    b"".join(pack({}, [("x", "UINT8", (-1,), 1, -1)], [b"a"])),
    b"".join(pack({}, [("x", "UINT8", (1,), 1, 1 << 40)], [])),
    b"".join(pack({}, [("x", "UINT8", (1,), -1, -1)], [])),
    b"".join(pack({}, [("x", "UINT8", (9,), 9, -1)], [b"a"])),
    b"".join(pack({}, [("x", "UINT8")], [])),
    b"".join(pack(dict(GOOD), [], [])) + b"more",
]


@pytest.mark.parametrize("sent", ODD, ids=range(len(ODD)))
def test_a_worker_that_breaks_the_format_is_of_no_more_use(sent: bytes) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        lost: list[WorkerLink] = []
        connected = WorkerLink(1, 0, ours.detach(), lost.append)
        theirs.send(sent) if sent else theirs.close()
        answer = await asked(connected, job(tensor(10)))
        assert isinstance(answer, Failure) and answer.kind == "gone", answer
        assert not lost
        theirs.close()

    asyncio.run(main())


def test_a_worker_that_speaks_unasked_is_of_no_more_use() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        lost: asyncio.Future[WorkerLink] = asyncio.get_running_loop().create_future()
        connected = WorkerLink(1, 0, ours.detach(), lost.set_result)
        theirs.send(b"".join(pack({}, [], [])))
        assert await asyncio.wait_for(lost, 30) is connected
        theirs.close()

    asyncio.run(main())


def test_a_broken_header_is_a_frame_error() -> None:
    for text in (b"{", b"[]", b'{"tensors": 1}', b"\xff\xff"):
        with pytest.raises(FrameError):
            parse_header(text)
