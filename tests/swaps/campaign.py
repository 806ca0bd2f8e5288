"""So many swaps under load, each of them a new server in and an old one out by SIGTERM, behind our own configuration.

Takes how many and how, hands on what was answered, what was lost, and how often Envoy had to ask again.

`rolling`: two replicas in one group; the older one is ended while it takes traffic, and a new one comes in its place.
`weights`: a new revision comes, all weight goes to it, then the old one is ended, as a rollout does.
With `resets` Envoy may ask again when a connection broke under a request, which is what a rollout is given; without,
what our server drops is lost for good: that proves the drain alone.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from support.gateways import RunningEnvoy, free_port, running_envoy
from support.serving import Served, echo_settings, serve, write_root

from intermodal.rooms.deploy.envoy import admin
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, Group, Site, Upstream
from intermodal.rooms.deploy.revision import Exposure

from .client import Load

MODEL = """
import time
class Model:
    def predict(self, x):
        time.sleep(0.002)
        return {"y": [value * 2 for value in x]}
"""


@dataclass(frozen=True)
class Result:
    """What a campaign gave."""

    answered: int
    lost: tuple[str, ...]
    again: int  # requests that Envoy asked again
    swaps: int
    seconds: float


@dataclass
class Replica:
    """A server with what ends it."""

    server: Served
    stack: ExitStack

    @property
    def upstream(self) -> Upstream:
        """Where Envoy finds it."""
        return Upstream("127.0.0.1", self.server.port)

    def drain(self) -> str:
        """End it by SIGTERM; what was wrong with that, "" when nothing."""
        self.server.process.send_signal(signal.SIGTERM)
        status = self.server.process.wait(60)
        said = [line["message"] for line in self.server.log() if line["level"] == "error"]
        self.stack.close()
        return "" if status == 0 and not said else f"a server ended with {status}: {said[:3]}"


class Campaign:
    """One Envoy, its replicas, and load."""

    def __init__(
        self, folder: Path, stack: ExitStack, *, connections: int, drain_s: float, resets: bool, processes: int
    ) -> None:
        self._stack, self._drain_s, self._processes = stack, drain_s, processes
        self._root = write_root(folder, echo_settings(predictor="slow:Model"), app={"slow.py": MODEL})
        self.envoy: RunningEnvoy = stack.enter_context(running_envoy())
        self._site = Site("echo", Exposure(port=free_port()), retry_reset=resets)
        self._replicas = [self._start(), self._start()]
        self._revision = 1
        self._follow(self._group(1, self._replicas), weights=((1, 100),))
        self.load = Load(self._site.exposure.port, connections)
        stack.callback(self.load.end)

    def _start(self) -> Replica:
        own = self._stack.enter_context(ExitStack())
        given: dict[str, Any] = {"mode": "inline", "processes": self._processes} if self._processes else {}
        server = own.enter_context(serve(self._root, tcp=True, drain_s=self._drain_s, **given))
        if self._processes:
            server.wait(lambda: server.watched("/health").json["processes"] == self._processes, "all processes")
        return Replica(server, own)

    @staticmethod
    def _group(revision: int, replicas: list[Replica]) -> Group:
        return Group(revision, tuple(one.upstream for one in replicas))

    def _follow(self, *groups: Group, weights: tuple[tuple[int, int], ...]) -> None:
        self._site = replace(self._site, groups=groups, weights=weights)
        self.envoy.apply(GatewayPlan((self._site,)))
        for group in groups:
            wanted = len(group.upstreams)
            self._until(lambda group=group, wanted=wanted: self._healthy(group.revision) == wanted)  # type: ignore[misc]

    def _healthy(self, revision: int) -> int:
        return int(admin.healthy(self.envoy.ask, "echo", [revision])[revision])

    @staticmethod
    def _until(condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end_s
            time.sleep(0.02)

    def asked(self, more: int) -> None:
        """Return when so many more requests have been answered."""
        counts = self.load.counts
        wanted = counts.answered + more
        while counts.answered < wanted and not counts.lost:
            before = counts.answered
            self._until(lambda before=before: counts.answered > before or bool(counts.lost))  # type: ignore[misc]

    def rolling(self) -> str:
        """End the older replica while it is asked; put a new one in its place."""
        old, kept = self._replicas
        told = old.drain()
        self._replicas = [kept, self._start()]
        self._follow(self._group(1, self._replicas), weights=((1, 100),))
        return told

    def weights(self) -> str:
        """Start a new revision, give it everything, end the old one."""
        old, before = self._replicas, self._revision
        self._replicas, self._revision = [self._start(), self._start()], before + 1
        groups = (self._group(before, old), self._group(before + 1, self._replicas))
        self._follow(*groups, weights=((before, 100), (before + 1, 0)))
        self._follow(*groups, weights=((before, 0), (before + 1, 100)))
        self._until(lambda: admin.active(self.envoy.ask, "echo", before) == 0)
        told = [one.drain() for one in old]
        self._follow(groups[1], weights=((before + 1, 100),))
        return " ".join(filter(None, told))

    def again(self) -> int:
        """How many requests Envoy asked again so far."""
        text = self.envoy.ask("/stats?filter=upstream_rq_retry$").decode()
        return sum(int(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("cluster."))


def campaign(
    *,
    swaps: int,
    requests: int,
    mode: str,
    resets: bool,
    connections: int = 16,
    drain_s: float = 1.0,
    processes: int = 0,
) -> Result:
    """What so many swaps under load gave; it goes on until as many requests have been answered.

    The model is in a worker, or with `processes` in the event loops of so many.
    """
    begun_s, told, again = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="im-") as folder, ExitStack() as stack:
        about: dict[str, Any] = {"connections": connections, "drain_s": drain_s, "resets": resets}
        running = Campaign(Path(folder), stack, processes=processes, **about)
        swap = running.rolling if mode == "rolling" else running.weights
        for _ in range(swaps):
            running.asked(200)
            told.append(swap())
        running.asked(max(200, requests - running.load.counts.answered))
        counts = running.load.end()
        again = running.again()
    lost = (*counts.lost, *filter(None, told))
    return Result(counts.answered, tuple(lost), again, swaps, time.monotonic() - begun_s)
