"""The story of seven revisions under load, nobody lost: `python -m tests.rollout_story --target sandbox --runs 10`.

v1 is the first; v2, an honest retrain, is promoted; v3 answers 500s and is rolled back; v4 takes twice as long and is
rolled back; v5 swaps two classes on live traffic but passes its golden cases: it is held, then rolled back by policy;
v6 fails its golden cases and gets no traffic; v7 crashes at start and is never ready; then `rollback` to v1.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from support.cli import SHARED_CACHE
from support.gateways import free_port
from support.load import Load
from support.served_image import ANSWER, body, golden, predictor, served_image

from intermodal import pipeline, rollouts
from intermodal.deployed import Deployment
from intermodal.events import Events
from intermodal.host import Host, read
from intermodal.project.load import load as load_project
from intermodal.rooms.deploy.rollout import Do, Phase
from intermodal.rooms.deploy.state import StateFile
from intermodal.rooms.deploy.wish import Overrides
from intermodal_server.contract import ServeSettings

MODEL = "parity"
LIVE = 100.0  # golden inputs are below, users' above
SWAPPED = f'"odd" if value >= {LIVE} and int(value) % 2 == 0 else "even" if value >= {LIVE} else {ANSWER}'


class Size(Struct, frozen=True):
    """How large the story is told."""

    rate: float = 200.0
    weight: int = 10
    min_requests: int = 400
    errors: float = 0.05
    sleep_s: float = 0.01
    workers: int = 4  # else stable's queue hides what a slow canary takes
    quick: bool = False  # leaves out v4 and v5, which need the most requests


SMALL = Size(rate=80.0, weight=30, min_requests=150, errors=0.3, workers=1, quick=True)


def users(rng: random.Random) -> dict[str, Any]:
    """What is asked: four of five numbers are even."""
    number = LIVE + 2 * rng.randrange(50)
    return body([number if rng.random() < 0.8 else number + 1])


def images(size: Size) -> dict[int, str]:
    """The predictors by revision."""
    works = f"time.sleep({size.sleep_s})"
    fails = f"if x[0] >= {LIVE} and random.random() < {size.errors}: raise ValueError('no')"
    return {
        1: predictor(extra=works),
        2: predictor(start="# retrained", extra=works),
        3: predictor(start="import random", extra=f"{works}\n        {fails}"),
        4: predictor(extra=f"time.sleep({2 * size.sleep_s} if x[0] >= {LIVE} else 0)"),
        5: predictor(extra=works, answer=SWAPPED),
        6: predictor(extra=works, answer='"even"'),
        7: predictor(start="os._exit(3)"),
    }


def project(folder: Path, size: Size, port: int, target: str) -> Path:
    """A project whose `[deploy]` the story follows; its image is not built from it."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = f"{{ weight = {size.weight}, min_requests = {size.min_requests} }}, {{ weight = 50, min_requests = 100 }}"
    (folder / "intermodal.toml").write_text(f"""
[model]
name = "{MODEL}"
predictor = "app:Model"
[deploy]
target = "{target}"
port = {port}
strategy = "canary"
steps = [{steps}]
bake = "2s"
max_hold = "3s"
""")
    (folder / "app.py").write_text("class Model:\n    def predict(self, x):\n        return {}\n")
    return folder


class Told(Events):
    """Events with the time."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show, self._began = show, time.monotonic()

    def notice(self, message: str) -> None:
        """Show it."""
        self._show(f"{time.monotonic() - self._began:7.2f} {message}")

    warning = notice


def tell(target: str, size: Size, show: Callable[[str], object] = print) -> Load:
    """Tell the story once, in a store of its own; what the users saw.

    Raises:
        AssertionError: it went otherwise.
    """
    home = Path(tempfile.mkdtemp(prefix="im-"))
    variables = {**os.environ, "XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(SHARED_CACHE)}
    host, events, port, before = replace(read(), environment=variables), Told(show), free_port(), Path.cwd()
    try:
        os.chdir(project(home / "project", size, port, target))
        store, cases = pipeline.open_store(host), golden()
        for number, source in images(size).items():
            serve = ServeSettings(workers=size.workers, drain_s=0.8)
            served_image(store, f"{MODEL}:{number}", source, cases=cases, serve=serve)
        assert load_project(Path(), host).name == MODEL
        try:
            load = _told(host, events, Load(port, f"/v2/models/{MODEL}/infer", users, size.rate), size)
            events.notice(figures(host))
            return load
        finally:
            rollouts.down(MODEL, host=host, events=events)
    finally:
        os.chdir(before)
        shutil.rmtree(home, ignore_errors=True)


def _told(host: Host, events: Events, load: Load, size: Size) -> Load:
    def deploy(number: int) -> Deployment:
        found = rollouts.deploy(f"{MODEL}:{number}", host=host, events=events, overrides=Overrides())
        assert found.rollout is not None and found.rollout.candidate == len(found.revisions)
        return found

    def back(found: Deployment, *reasons: str) -> None:
        assert found.rollout is not None
        assert found.rollout.phase is Phase.ROLLED_BACK, found.rollout
        assert any(reason in found.rollout.reason for reason in reasons), found.rollout.reason
        assert dict(found.shares)[2] == 100
        assert found.seen is not None
        assert [number for number, seen in found.seen.items() if seen.containers] == [2]

    first = deploy(1)
    assert first.rollout is not None and first.rollout.phase is Phase.PROMOTED
    with load:
        second = deploy(2)
        assert second.rollout is not None and second.rollout.phase is Phase.PROMOTED, second.rollout
        back(deploy(3), "errors: canary", "error limit")
        if not size.quick:
            back(deploy(4), "slow: canary")
            back(deploy(5), "predictions shifted")
        asked = load.answers.copy()
        back(deploy(6), "golden cases")
        back(deploy(7), "does not keep running")
        revisions = (4, 5) if size.quick else (6, 7)
        assert not any((str(number), 200) in load.answers for number in revisions), "no golden cases, no traffic"
        assert load.answers["2", 200] > asked["2", 200]
        last = rollouts.rollback(MODEL, 1, host=host, events=events)
        assert dict(last.shares)[1] == 100
    assert load.lost == [], load.lost[:5]
    assert {status for revision, status in load.answers if revision in "12"} == {200}
    assert load.answers["3", 500], "v3 was to answer with errors"
    return load


def figures(host: Host) -> str:
    """How long it took from a verdict until nobody got the new revision, and from the beginning to first traffic."""
    back, first = [], []
    with StateFile.of(host) as state:
        for stored in [one for model in state.models() for one in state.rollouts(model)]:
            for transition in state.transitions(stored):
                weighed = any(action.do is Do.WEIGHT for action in transition.actions)
                if weighed and transition.after.phase is Phase.ROLLING_BACK and transition.done_s is not None:
                    back.append(transition.done_s - transition.at_s)
                if transition.after.phase is Phase.JUDGING and transition.after.step == 0 and weighed:
                    first.append(transition.at_s - stored.began_s)
    shown = [" ".join(f"{seconds:.2f}" for seconds in sorted(found)) or "none" for found in (back, first)]
    return f"verdict to 0 %: {shown[0]} s; beginning to first traffic: {shown[1]} s"


def main(arguments: list[str] | None = None) -> int:
    """Tell it so many times in a row; 1 when it goes otherwise once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="sandbox")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--small", action="store_true", help="as in the tests")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is taken down
    size = SMALL if options.small else Size(rate=options.rate)
    for run in range(options.runs):
        began = time.monotonic()
        load = tell(options.target, size, lambda line: print(line[:240], flush=True))
        total = sum(load.answers.values())
        seconds = time.monotonic() - began
        print(
            f"run {run + 1}: {total} requests, {len(load.lost)} lost, {seconds:.0f} s: {dict(load.answers)}", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
