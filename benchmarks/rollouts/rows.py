"""The rows of the table, each measured from outside where that can be done.

Takes the ground, hands on rows in their order. Nothing is left out: a run that goes otherwise ends the benchmark.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rollouts import Row
from benchmarks.rollouts.ground import MODEL, PATIENCE_S, Ground
from benchmarks.rollouts.probe import Asker, Knocker, median_ms
from intermodal.rooms.deploy.revision import Revision, Settings
from intermodal.rooms.deploy.rollout import Do, Phase
from intermodal.rooms.deploy.state import StateFile
from intermodal.rooms.deploy.targets import bodies

if TYPE_CHECKING:
    from support.load import Load

BLOCK = 1000  # requests
APART = 900  # a revision's number that no rollout has
KNOCK_S = 1.0  # before and after a restart


def all_rows(here: Ground, *, runs: int, blocks: int) -> Iterator[Row]:
    """Every row."""
    here.run("deploy", here.image())
    yield from _rollouts(here, runs)
    yield from _overhead(here, blocks)
    yield from _restarts(here, runs)
    gateway = here.target._machine.gateway()
    assert gateway is not None
    pid = int(here.target._machine.inspect(gateway.id)["State"]["Pid"])
    yield Row("memory of the gateway, resident", [_resident_mb(pid)], "MB")


def _rollouts(here: Ground, runs: int) -> Iterator[Row]:
    """Bad revisions, one after the other: from the command to their first request, and from the verdict to the last."""
    first, start, beyond, back, last, memory = [], [], [], [], [], []
    for number in range(2, runs + 2):
        name = here.image(bad=True)
        with here.load() as load:
            _wait(lambda load=load: load.answers["1", 200], "the first answers")  # type: ignore[misc]
            began_s, began = time.time(), time.monotonic()
            process = here.begin("deploy", name)
            _wait(lambda load=load, number=number: _asked(load, number), "the canary's first request")  # type: ignore[misc]
            first.append(time.monotonic() - began)
            seen = _Last(load, number)
            memory.append(seen.until(lambda process=process: process.poll() is not None, process.pid))  # type: ignore[misc]
        if process.returncode != 1:
            raise RuntimeError(f"revision {number} was to go back: {process.communicate()[0]}")
        verdict_s, confirmed_s = _went_back(here, number)
        assert began_s < verdict_s
        back.append(confirmed_s - verdict_s)
        last.append(max(0.0, seen.at_s - verdict_s))
        start.append(_model_start_s(here, name))
        beyond.append(first[-1] - start[-1])
    yield Row("verdict stored, until the gateway confirms 0 %", back, "s", 0.5)
    yield Row("- until the last request that the canary answered", last, "s", 0.5)
    yield Row("`deploy` of one changed line, image in the engine, until the canary's first request", first, "s")
    yield Row("- of it container and model start, measured aside", start, "s")
    yield Row("- the rest", beyond, "s", 3.0)
    yield Row("memory of the watcher (the `deploy` command), at its peak", memory, "MB")


def _asked(load: Load, revision: int) -> int:
    return sum(count for (one, _), count in load.answers.items() if one == str(revision))


class _Last:
    """When a revision answered last, looked at every 2 ms, in seconds since the epoch."""

    def __init__(self, load: Load, revision: int) -> None:
        self._load, self._revision = load, revision
        self.at_s = time.time()

    def until(self, over: object, pid: int) -> float:
        """Look until it is over; the peak memory of a process in MB meanwhile."""
        count, peak_mb, until_s = 0, 0.0, time.monotonic() + PATIENCE_S
        while not over():  # type: ignore[operator]
            if (now := _asked(self._load, self._revision)) != count:
                count, self.at_s = now, time.time()
            peak_mb = max(peak_mb, _resident_mb(pid, "VmHWM"))
            if time.monotonic() > until_s:
                raise RuntimeError("the rollout does not end")
            time.sleep(0.002)
        return peak_mb


def _went_back(here: Ground, number: int) -> tuple[float, float]:
    """When the decision to go back was stored, and when the gateway had confirmed it."""
    with StateFile.of(here.host) as state:
        (model,) = state.models()
        stored = state.rollout(model)
        assert stored is not None and stored.rollout.candidate == number
        for transition in state.transitions(stored):
            weighed = any(action.do is Do.WEIGHT for action in transition.actions)
            if weighed and transition.after.phase is Phase.ROLLING_BACK and transition.done_s is not None:
                return transition.at_s, transition.done_s
    raise RuntimeError(f"revision {number} did not go back")


def _model_start_s(here: Ground, name: str) -> float:
    """From the order to start one container of an image until it says that it is ready; nobody sends it requests."""
    target = here.target
    digest = str(here.store.resolve(name).digest)
    alone = Revision(APART, digest, digest, Settings())
    began = time.monotonic()
    target.start(alone)
    (found,) = target._machine.containers(model=MODEL, revision=str(APART))
    with Asker(found.labels[bodies.ADDRESS], 8080) as asker:
        _wait(lambda: asker.ready(), "the model")
    taken_s = time.monotonic() - began
    target._machine.remove(found.id)
    return taken_s


def _overhead(here: Ground, blocks: int) -> Iterator[Row]:
    """The same replica asked directly and through the gateway, in turn."""
    (found,) = here.target._machine.containers(model=MODEL, revision="1")
    direct, through, more = [], [], []
    with Asker(found.labels[bodies.ADDRESS], 8080) as a, Asker("127.0.0.1", here.port) as b:
        for asker in (a, b):
            asker.block(BLOCK)
        for _ in range(blocks):
            direct.append(median_ms(a.block(BLOCK)))
            through.append(median_ms(b.block(BLOCK)))
            more.append(through[-1] - direct[-1])
    yield Row("replica asked directly, p50", direct, "ms")
    yield Row("- through the gateway", through, "ms")
    yield Row("- gateway overhead", more, "ms", 0.3)


def _restarts(here: Ground, runs: int) -> Iterator[Row]:
    """The gateway ended, in order and by force, while somebody knocks a thousand times a second."""
    machine = here.target._machine
    for what, number in (("SIGTERM, in order", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
        refused, broken, gap = [], [], []
        for _ in range(runs):
            gateway = machine.gateway()
            assert gateway is not None
            pid = int(machine.inspect(gateway.id)["State"]["Pid"])
            with Knocker(here.port) as knocker:
                time.sleep(KNOCK_S)
                knocker.mark()
                os.kill(pid, number)
                _wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the gateway's end")  # type: ignore[misc]
                _wait(lambda knocker=knocker: knocker.answers_again(), "the gateway")  # type: ignore[misc]
                time.sleep(KNOCK_S)
            refused.append(float(knocker.refused))
            broken.append(float(knocker.broken))
            gap.append(knocker.gap_s)
            _wait(lambda: here.target.tend() == "", "the gateway to be as it was")
            time.sleep(10 * KNOCK_S)  # so long the engine wants a container to live, or it waits longer each time
        yield Row(f"gateway ended by {what}: refused connections of about 1,000 a second", refused, "")
        yield Row("- connections that broke with a request under way", broken, "")
        yield Row("- longest time without an answer", gap, "s")


def _resident_mb(pid: int, name: str = "VmRSS") -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{name}:")), 0.0)


def _wait(condition: object, what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > until_s:
            raise RuntimeError(f"waited for {what}")
        time.sleep(0.002)
