"""From looks at gateway and servers to the judge's windows: what counts, and what does not.

Takes what was seen at one moment, hands on the `Window` since the moment before, or None where there is nothing to
count. Keeps only the counters of the moment before: after a crash it begins anew, and what happened meanwhile is left
out, which costs data and biases nothing.

Rules, in order:
1. Requests and errors are the gateway's, which sees servers die; slow requests and predictions are the servers' own,
   which are finer. Golden cases, requests by header, health checks and pages have counters of their own there and
   never come here.
2. A window that straddles a change of weight, or the moments after it in which requests of before still end, is
   excluded; so is one in which the gateway began anew, because its counters did.
3. In the warm-up of the canary nobody is slow: time-outs and errors count, latency does not.
4. A counter that fell is a process that began anew: it counts from 0. Where a replica of either revision did not say
   anything, or is another one than before, nobody's latencies and predictions count: half a view is biased.
5. A request with many rows is one draw: predictions are scaled down to requests.
6. Where users stick to a revision, requests are not divided one by one, and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from intermodal.rooms.deploy.target import Counters, ReplicaReport, Scrape, Traffic
from intermodal.rooms.watch.choice import Choice, choose, counted
from intermodal.rooms.watch.counts import Arm, Split, Window
from intermodal.rooms.watch.looks import Look, beyond, looks, merged_latency, timed
from intermodal.rooms.watch.pace import ENOUGH_REQUESTS, Recent, pace_of

SETTLE_S = 1.0
WARM_UP_S = 3.0


class Moment(Struct, frozen=True):
    """Everything seen at one time."""

    at_s: float
    traffic: Traffic | None
    scrape: Scrape | None
    stable: tuple[ReplicaReport, ...] = ()
    canary: tuple[ReplicaReport, ...] = ()


class Setting(Struct, frozen=True):
    """What does not change in a rollout."""

    candidate: int
    stable: int | None
    sticky: bool = False
    max_p99_s: float | None = None
    settle_s: float = SETTLE_S
    warm_up_s: float = WARM_UP_S


class Observer:
    """Makes windows of moments; one for each run of a watcher."""

    def __init__(self, setting: Setting, choice: Choice | None = None) -> None:
        self.setting = setting
        self.choice = choice or Choice()
        self._before: Moment | None = None
        self._steady_since_s = 0.0  # since when the traffic is as it is
        self._warm_since_s: float | None = None  # since when the canary has requests
        self._recent = Recent()
        self._rest: dict[tuple[str, int], float] = {}

    def window(self, now: Moment) -> Window | None:
        """What happened since the moment before; None where the canary had no part, or nothing could be seen."""
        before, self._before = self._before, now
        self.choice = choose(self.choice, looks(now.stable, "live").values())
        window = self._window(before, now)
        self._keep_pace(now)  # for the next window: what is judged by it comes later
        return window

    def _window(self, before: Moment | None, now: Moment) -> Window | None:
        traffic = now.traffic
        if traffic is None or now.scrape is None:
            return None
        if before is None or before.traffic != traffic:
            self._steady_since_s = now.at_s
        weight, mirrored = traffic.percent(self.setting.candidate), traffic.mirror == self.setting.candidate
        if not weight and not mirrored:
            self._warm_since_s = None
            return None
        if self._warm_since_s is None:
            self._warm_since_s = now.at_s
        if before is None or before.scrape is None:
            return None
        excluded = self._excluded(before, now)
        kind = "mirror" if mirrored and not weight else "live"
        counters = now.scrape.live if kind == "live" else now.scrape.mirror
        stable = self._arm(before, now, self.setting.stable, "stable", "live", 0)
        canary = self._arm(before, now, self.setting.candidate, "canary", kind, 1)
        if self.setting.stable is not None and not self._whole(before, now, kind):
            stable, canary = (Arm(one.requests, one.errors, 0, one.over_limit) for one in (stable, canary))
        return Window(
            float(weight),
            stable,
            canary,
            split=self._split(kind),
            excluded=excluded,
            canary_healthy=counters.get(self.setting.candidate, Counters()).healthy > 0,
        )

    @staticmethod
    def _whole(before: Moment, now: Moment, kind: str) -> bool:
        """Whether the same processes of both revisions spoke at both moments."""
        for whose, traffic in (("stable", "live"), ("canary", kind)):
            old, new = (looks(getattr(one, whose), traffic).keys() for one in (before, now))
            if not new or old != new:
                return False
        return True

    def _keep_pace(self, now: Moment) -> None:
        """Follow stable; from all it ever did where the canary's turn comes before enough was seen."""
        stable, traffic = looks(now.stable, "live"), now.traffic
        pace = self._recent.pace(stable)
        begun = traffic is not None and bool(
            traffic.percent(self.setting.candidate) or traffic.mirror == self.setting.candidate
        )
        enough = begun and sum(look.requests for look in stable.values()) >= ENOUGH_REQUESTS
        if pace is None and self.choice.pace is None and enough:
            pace = pace_of(merged_latency(stable.values()))
        if pace is not None:
            self.choice = replace(self.choice, pace=pace)

    def _excluded(self, before: Moment, now: Moment) -> str:
        assert before.scrape is not None and now.scrape is not None
        if before.scrape.gateway != now.scrape.gateway:
            return "the gateway began anew"
        if before.at_s - self._steady_since_s < self.setting.settle_s:
            return "straddles a change of weight"
        return ""

    def _split(self, kind: str) -> Split:
        if kind == "mirror":
            return Split.PAIRS
        return Split.REPLICAS if self.setting.sticky else Split.RANDOM

    def _arm(self, before: Moment, now: Moment, revision: int | None, whose: str, kind: str, which: int) -> Arm:
        """What one revision did between two moments."""
        assert before.scrape is not None and now.scrape is not None
        if revision is None:
            return Arm()
        gateway = [getattr(one.scrape, kind).get(revision, Counters()) for one in (before, now)]
        requests = _risen(gateway[0].requests, gateway[1].requests)
        bad = [one.errors + one.retries for one in gateway]
        slow = usual = clocked = limit = rows = asked = 0
        classes = [0] * len(self.choice.classes)
        earlier = looks(getattr(before, whose), kind)
        for name, look in looks(getattr(now, whose), kind).items():
            if name not in earlier:
                continue
            was = earlier[name]
            asked += _risen(was.requests, look.requests)
            rows += _risen(was.rows, look.rows)
            if self.choice.pace is not None and self._warm(now):
                answered = _risen(timed(was.latency), timed(look.latency))
                clocked += answered
                slow += self._beyond(was, look, self.choice.pace.slow[which])
                usual += answered - self._beyond(was, look, self.choice.pace.usual[which])
            if self.setting.max_p99_s is not None:
                limit += self._beyond(was, look, self.setting.max_p99_s)
            for index, (old, new) in enumerate(zip(self._counted(was), self._counted(look), strict=True)):
                classes[index] += _risen(old, new)
        return Arm(
            requests,
            min(requests, _risen(*bad)),
            min(requests, slow),
            min(requests, limit),
            self._scaled(whose, classes, asked, rows),
            max(0, min(requests, usual)),
            min(requests, clocked),
        )

    def _warm(self, now: Moment) -> bool:
        return self._warm_since_s is not None and now.at_s - self._warm_since_s >= self.setting.warm_up_s

    @staticmethod
    def _beyond(was: Look, look: Look, edge_s: float) -> int:
        return _risen(beyond(was.latency, edge_s), beyond(look.latency, edge_s))

    def _counted(self, look: Look) -> tuple[int, ...]:
        return counted(self.choice, look.predictions.get(self.choice.output))

    def _scaled(self, whose: str, classes: list[int], requests: int, rows: int) -> tuple[int, ...]:
        """Predictions as if each request had one; what is left of a whole one waits for the next window."""
        share = min(1.0, requests / rows) if rows else 1.0
        found = []
        for index, count in enumerate(classes):
            value = self._rest.get((whose, index), 0.0) + count * share
            found.append(int(value))
            self._rest[whose, index] = value - int(value)
        return tuple(found)


def requests_per_s(before: Moment, now: Moment, revision: int) -> float | None:
    """What a revision is asked, between two moments; None when it could not be seen."""
    if before.scrape is None or now.scrape is None or now.at_s <= before.at_s:
        return None
    counters: list[Mapping[int, Counters]] = [before.scrape.live, now.scrape.live]
    old, new = (one.get(revision, Counters()).requests for one in counters)
    return _risen(old, new) / (now.at_s - before.at_s)


def _risen(before: int, now: int) -> int:
    """How much a counter rose; one that fell began anew."""
    return now - before if now >= before else now
