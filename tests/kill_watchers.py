"""Kill the watcher of a rollout at random moments, start another, and see that everything agrees again.

python -m tests.kill_watchers --target sandbox --times 100

Each time: a rollout of a good or bad revision begins in a process of its own, which is killed with SIGKILL somewhere in
it; a new watcher is started; within 10 s (longer on a crowded machine; the longest is told) the stored state, the
gateway's weights and the containers must agree. Users ask all the time: not one request may be lost. 1 when something
does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from rollout_story import MODEL, Size, images, project, users
from support.cli import SHARED_CACHE
from support.gateways import free_port
from support.load import Load
from support.served_image import golden, served_image

from intermodal import pipeline, rollouts
from intermodal.deployed import Deployment
from intermodal.host import Host, read
from intermodal.rooms.deploy.rollout import Phase
from intermodal_server.contract import ServeSettings

AGREE_S = 10.0
SIZE = Size(rate=40.0, weight=30, min_requests=60, errors=0.3, workers=1)
PHASES = (Phase.STARTING, Phase.STARTING, Phase.JUDGING, Phase.JUDGING, Phase.BAKING, Phase.ROLLING_BACK)
KINDS = {"good": 2, "answers with errors": 3, "fails golden cases": 6}


def disagreement(found: Deployment) -> str:
    """What does not fit together; "" when all does."""
    rollout = found.rollout
    assert rollout is not None and found.seen is not None
    live = dict(found.shares)
    if sum(live.values()) != 100:
        return f"weights add up to {sum(live.values())}"
    wanted = rollout.weight_percent if rollout.stable is not None else 100
    if live.get(rollout.candidate, 0) != wanted:
        return f"stored {wanted} %, the gateway has {live}"
    running = {number for number, seen in found.seen.items() if seen.containers}
    names = {rollout.candidate, rollout.stable}
    expected = {Phase.PROMOTED: {rollout.candidate}, Phase.ROLLED_BACK: {rollout.stable}}.get(rollout.phase, names)
    if rollout.phase is Phase.ROLLING_BACK:
        expected = running | {rollout.stable}
    if running != expected:
        return f"{rollout.phase.value}: revisions {sorted(running)} run, {sorted(map(str, expected))} should"
    for number, percent in live.items():
        if percent and not found.seen[number].healthy:
            return f"revision {number} has {percent} % and nobody healthy"
    return ""


class Campaign:
    """All of it, in a store of its own."""

    def __init__(self, target: str, seed: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="im-"))
        self.variables = {**os.environ, "XDG_DATA_HOME": str(self.home / "data"), "XDG_CACHE_HOME": str(SHARED_CACHE)}
        self.variables["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
        self.host: Host = replace(read(), environment=self.variables)
        self.port, self.rng = free_port(), random.Random(seed)
        self.folder = project(self.home / "project", SIZE, self.port, target)
        self.log = (self.home / "log").open("wb")
        self.longest_s = 0.0
        self.killed_in: Counter[str] = Counter()

    def run(self, times: int) -> int:
        """How often something did not hold."""
        store, sources, wrong = pipeline.open_store(self.host), images(SIZE), 0
        serve = ServeSettings(drain_s=0.8)
        try:
            served_image(store, f"{MODEL}:0", sources[2] + "# 0\n", cases=golden(), serve=serve)
            self.wait(self.start("deploy", f"{MODEL}:0"))
            with Load(self.port, f"/v2/models/{MODEL}/infer", users, SIZE.rate) as load:
                for number in range(1, times + 1):
                    kind = self.rng.choice([*KINDS])
                    source = f"{sources[KINDS[kind]]}# {number}\n"
                    served_image(store, f"{MODEL}:{number}", source, cases=golden(), serve=serve)
                    told = self.once(number)
                    wrong += bool(told)
                    print(f"{number:4d} {kind}: {told or 'agrees'}", flush=True)
            print(f"killed in {dict(self.killed_in)}; longest until all agreed {self.longest_s:.1f} s")
            print(f"{sum(load.answers.values())} requests, {len(load.lost)} lost {load.lost[:3]}")
            return wrong + len(load.lost)
        finally:
            rollouts.down(MODEL, host=self.host)
            self.log.close()
            shutil.rmtree(self.home, ignore_errors=True)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command as a process."""
        return subprocess.Popen(
            [sys.executable, "-m", "intermodal", *arguments],
            cwd=self.folder, env=self.variables, stdout=subprocess.DEVNULL, stderr=self.log,
        )  # fmt: skip

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Let it end."""
        if process.wait(300) not in (0, 1):
            raise AssertionError(f"{process.args}\n{(self.home / 'log').read_text()[-3000:]}")

    def look(self) -> Deployment:
        """How everything stands."""
        return rollouts.status(MODEL, host=self.host)[0]

    def once(self, number: int) -> str:
        """One rollout, one death; what did not fit afterwards."""
        process = self.start("deploy", f"{MODEL}:{number}")
        deadline_s, phase = time.monotonic() + 60, self.rng.choice(PHASES)
        while process.poll() is None and time.monotonic() < deadline_s:
            found = self.look()
            if len(found.revisions) > number and found.rollout is not None and found.rollout.phase is phase:
                break
            time.sleep(0.05)
        time.sleep(self.rng.random() * 2)
        process.kill()
        process.wait()
        rollout = self.look().rollout
        assert rollout is not None
        self.killed_in[rollout.phase.value] += 1
        watcher, began = self.start("watch", MODEL), time.monotonic()
        crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # others use this machine, too
        while time.monotonic() - began < AGREE_S * min(8.0, crowd):
            found = self.look()
            problem = disagreement(found) or ("" if found.watched_by or not found.running else "nobody watches it")
            if not problem:
                break
            time.sleep(0.05)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if self.rng.random() < 0.5 and watcher.poll() is None:
            self.start("abort", MODEL).wait(120)
        self.wait(watcher)
        return problem or disagreement(self.look())


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="sandbox")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is taken down
    wrong = Campaign(options.target, options.seed).run(options.times)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
