"""One campaign: a server with the misbehaving model, load at half of what it can take, and everything that must hold.

Takes a mode, a time and a seed, hands on a report; the load is the same for the same seed, the moments are not.

What must hold, in order:
1. No answer is wrong: whoever asked for nothing bad gets what the model answers when asked alone.
2. Who asked for something bad gets an error of its own or a harmless answer, never silence.
3. Collateral (a request that was in the front when that had to be replaced) only where the front holds the model, and
   only in flight at such a moment. Refusals (503 or 429 with Retry-After) are counted: beyond a bound the
   report says so, because a machine that others use too may lose half of its capacity; half of the good is a fault.
4. Liveness is true all the time. Readiness is false only near an event, with a reason; when it is true, a good request
   is answered, unless something happened at that very moment.
5. At the end there are the processes of the beginning, as many descriptors, and not noticeably more memory; after
   SIGTERM the status is 0 and nothing is left at all.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.serving import Served, echo_settings, serve, write_root

from chaos import model
from chaos.client import SILENT, Came, Client
from chaos.verdict import COLLATERAL, REFUSED, RIGHT, WRONG, Asked, ask_for, judge, oracle
from chaos.watch import Probing, Seen, between, happened, look, marked, probe_forever, unsettled, zombies
from intermodal_server.contract import Signature, TensorSpec

TIMEOUT_S = 2.0
MEMORY_BYTES = 600 << 20
MAX_REFUSED, MAX_REFUSED_IN_FRONT, LEAST_REFUSED = 0.02, 0.05, 5  # a thread that spins slows down its whole process
MAX_GROWTH_BYTES = 12 << 20
MAX_MORE_DESCRIPTORS = 8
PROBE_S = 0.25
CLIENT_LAG_S = 1.0  # until a busy client notices that a kept connection has ended
TARGET = "/v2/models/chaos/infer"


@dataclass(frozen=True)
class Plan:
    """One campaign."""

    mode: str
    seconds: float
    seed: int = 1
    share: float = 0.05
    callers: int = 8
    whole_pack: bool = False  # however long it takes to deal every kind once
    most_rate: float = math.inf
    kinds: tuple[str, ...] = tuple(model.KINDS)
    processes: int = 1  # that answer, in mode inline

    @property
    def in_front(self) -> bool:
        """Whether the front holds the model."""
        return self.mode != "workers"


@dataclass
class Report:
    """What came of it."""

    plan: Plan
    capacity: float = 0.0
    words: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    deaths: int = 0
    latencies_s: list[float] = field(default_factory=list)
    probing: Probing = field(default_factory=Probing)
    seen: list[Seen] = field(default_factory=list)
    log_bytes: int = 0
    strained: str = ""  # more refusals than a machine of its own would see
    faults: list[str] = field(default_factory=list)


def root(folder: Path) -> Path:
    """The server's files."""
    signature = Signature((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))
    settings = echo_settings(name="chaos", predictor="model:Model", signature=signature)
    cases = [Asked((1.0, 2.0)), Asked((3.0,)), Asked((4.0, 5.0, 6.0))]
    golden = {
        "format": 1,
        "recorded_in": "training",
        "environment": {},
        "cases": [
            {"name": str(number), "request": json.loads(case.body), "response": {"outputs": [_output(oracle(case))]}}
            for number, case in enumerate(cases)
        ],
    }
    return write_root(folder, settings, app={"model.py": Path(model.__file__).read_text()}, golden=golden)


def _output(values: Sequence[float]) -> dict[str, object]:
    return {"name": "y", "datatype": "FP64", "shape": [len(values)], "data": list(values)}


class Campaign:
    """Load, probes and samples against one server."""

    def __init__(self, plan: Plan, server: Served) -> None:
        self.plan = plan
        self.report = Report(plan)
        self._server = server
        self._client = Client(server.socket)
        self._chance = random.Random(plan.seed)
        self._pack: list[str] = []
        self._happened: list[tuple[Asked, Came, str]] = []

    def _next(self) -> Asked:
        """The next request; kinds come as from a shuffled pack, so that every hundred bad ones weigh the same."""
        rows = [float(self._chance.randrange(1000)) for _ in range(self._chance.choice((1, 1, 2, 5)))]
        kind = ""
        if self._chance.random() < self.plan.share:
            self._pack = self._pack or self._chance.sample(self.plan.kinds, len(self.plan.kinds))
            kind = self._pack.pop()
        return ask_for(kind, rows, self._chance.randrange(5))

    async def _one(self, asked: Asked) -> None:
        came = await self._client.ask("POST", TARGET, asked.body)
        word = judge(asked, came, in_front=self.plan.in_front)
        self.report.words[word if not asked.kind or word in (WRONG, COLLATERAL) else f"bad: {word}"] += 1
        self.report.by_kind[asked.kind, word, came.status] += bool(asked.kind) or word != RIGHT
        if word == RIGHT and not asked.kind:
            self.report.latencies_s.append(came.came_s - came.asked_s)
        if word in (WRONG, COLLATERAL) or came.status == SILENT:
            self._happened.append((asked, came, word))

    async def _closed_loop(self, seconds: float) -> float:
        """How many requests a second it takes from callers who wait for their answers, over a whole pack of kinds."""
        end_s, count = time.monotonic() + seconds, 0
        pack = len(self.plan.kinds) / self.plan.share

        async def caller() -> None:
            nonlocal count
            while time.monotonic() < end_s and count < pack:
                await self._one(self._next())
                count += 1

        began_s = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(self.plan.callers)))
        return count / (time.monotonic() - began_s)

    async def _open_loop(self, seconds: float, rate: float) -> None:
        """Requests at their times, whether or not those before have been answered."""
        running: set[asyncio.Task[None]] = set()
        began_s = time.monotonic()
        due_s = began_s
        while due_s < began_s + seconds:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            task = asyncio.ensure_future(self._one(self._next()))
            running.add(task)
            task.add_done_callback(running.discard)
            due_s += self._chance.expovariate(rate)
        await asyncio.gather(*running)

    async def _sample_forever(self) -> None:
        while True:
            self.report.seen.append(look(self._server))
            await asyncio.sleep(1.0)

    async def run(self) -> None:
        """The whole load."""
        plan, report = self.plan, self.report
        report.capacity = await self._closed_loop(math.inf if plan.whole_pack else plan.seconds / 2)
        prober = asyncio.ensure_future(probe_forever(self._client, report.probing, plan.in_front, PROBE_S))
        sampler = asyncio.ensure_future(self._sample_forever())
        await self._open_loop(plan.seconds, min(plan.most_rate, max(4.0, report.capacity / 2)))
        for task in (prober, sampler):
            task.cancel()
        await asyncio.gather(prober, sampler, return_exceptions=True)
        await self._client.close()

    # --- what must hold -----------------------------------------------------------------------------------------------
    def judge(self) -> None:
        """Fill in the faults."""
        report, plan, say = self.report, self.plan, self.report.faults.append
        log = self._server.log()
        fronts, events = (list(happened(log, fronts_only=only)) for only in (True, False))
        report.deaths = sum(line["message"].endswith(" ended") for line in log)
        report.log_bytes = self._server.log_path.stat().st_size
        for asked, came, word in self._happened:
            near = fronts if asked.kind not in model.BEFORE else events
            in_flight = between(near, came.asked_s - CLIENT_LAG_S, came.came_s + 1.0)
            if word == WRONG or came.status == SILENT:
                say(f"{word}: {asked.kind or 'a good request'} {asked.rows} got {came.status} {came.body[:200]!r}")
            elif not in_flight or not (plan.in_front or asked.kind):
                say(f"a connection closed with no front replaced: {asked.kind or 'a good request'} {came}")
        good = sum(count for word, count in report.words.items() if not word.startswith("bad: "))
        most = MAX_REFUSED_IN_FRONT if plan.in_front else MAX_REFUSED
        if report.words[REFUSED] > max(LEAST_REFUSED, most * good):
            report.strained = f"{report.words[REFUSED]} of {good} good requests were refused"
        if report.words[RIGHT] < 0.5 * good:
            say(f"only {report.words[RIGHT]} of {good} good requests were answered")
        self._judge_probes(events, log)
        self._judge_growth()
        if report.log_bytes > (8 << 20) + report.deaths * (192 << 10):
            say(f"the log has {report.log_bytes} bytes")

    def _judge_probes(self, events: list[float], log: list[dict[str, Any]]) -> None:
        probing, say = self.report.probing, self.report.faults.append
        for came in probing.not_live:
            say(f"liveness: {came.status} {came.body!r}")
        if probing.silent:
            say(f"{probing.silent} probes without an answer")
        if not probing.ready:
            say("it was never ready")
        slack_s = TIMEOUT_S + 4.0  # a hung process makes no event before it is noticed
        for came, reason, word in probing.claims:
            near = between(events, came.asked_s - 1.0, came.came_s + slack_s)
            if not near and not unsettled(log, came.came_s):
                say(f"readiness: {reason or word!r} at {came.asked_s} although nothing happened")
            if came.status == 503 and not reason:
                say("not ready, and no reason")
            if word == WRONG:
                say("ready, and a wrong answer")

    def _judge_growth(self) -> None:
        seen, say = self.report.seen, self.report.faults.append
        if len(seen) < 8:
            return
        early, late = seen[len(seen) // 4], seen[-1]
        if late.supervisor_bytes - early.supervisor_bytes > MAX_GROWTH_BYTES:
            say(f"the supervisor grew from {early.supervisor_bytes} to {late.supervisor_bytes} bytes")
        if not self.plan.in_front and late.front_bytes - early.front_bytes > MAX_GROWTH_BYTES:
            say(f"the front grew from {early.front_bytes} to {late.front_bytes} bytes")


def run(plan: Plan, folder: Path, *, workers: int = 2, keep_log: str = "") -> Report:
    """The report of one campaign."""
    settings = {"timeout_s": TIMEOUT_S, "memory_bytes": MEMORY_BYTES, "mode": plan.mode, "processes": plan.processes}
    if not plan.in_front:
        settings["workers"] = workers
    with serve(root(folder), **settings) as server:
        server.wait(
            lambda: look(server).processes == (plan.processes if plan.in_front else 1 + workers), "all processes"
        )
        first = look(server)
        campaign = Campaign(plan, server)
        asyncio.run(campaign.run())
        report = campaign.report
        try:
            server.wait_ready()
            _judge_end(server, first, report, workers)
        except AssertionError as error:
            report.faults.append(f"it did not come to rest: {str(error)[:2000]}")
        campaign.judge()
        if server.stop() != 0:
            report.faults.append(f"exit status {server.process.returncode} after SIGTERM")
        if keep_log:
            shutil.copy(server.log_path, keep_log)
    if left := marked(str(folder)):
        report.faults.append(f"processes outlived the server: {left}")
    return report


def _judge_end(server: Served, first: Seen, report: Report, workers: int) -> None:
    """What there must be once nobody asks any more; kinds that start processes have theirs until they are replaced."""
    harmless = 0 if report.plan.in_front else workers
    for pid in server.children("worker" if harmless else "front"):
        os.kill(pid, signal.SIGKILL)
    server.wait(lambda: look(server).processes == first.processes, "the processes of the beginning")
    server.wait_ready()
    last = look(server)
    if zombies(server.process.pid):
        report.faults.append("there are zombies")
    for name in ("supervisor_descriptors", "front_descriptors"):
        before, after = getattr(first, name), getattr(last, name)
        if after - before > MAX_MORE_DESCRIPTORS:
            report.faults.append(f"{name}: {before} at first, {after} at the end")
