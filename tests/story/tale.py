"""The story: seven revisions under constant load, told through the command line.

Takes a world, hands on what happened. Rules that it holds the product to, in order:
1. Nobody loses a request: every one gets a model's answer. Only the third revision's own 500s reach users.
2. Each revision ends as it deserves, with the reason told and the exit code of the command.
3. In the end the gateway, the containers and the stored state agree.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from story.revisions import MODEL, make
from story.users import Tally, Users
from story.world import World

BAD = 3  # answers 500 to one request of twenty


@dataclass
class Told:
    """What happened in one run."""

    seconds: float = 0.0
    chapters: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def expect(self, condition: object, what: str) -> None:
        """A fault where something does not hold."""
        if not condition:
            self.faults.append(what)


def tell(world: World, *, rate_per_s: float = 200.0, say: Callable[[str], None] = print) -> Told:
    """The whole story, once."""
    told, began_s = Told(), time.monotonic()
    names = {number: make(world.store, number) for number in range(1, 8)}
    _chapter(world, told, say, names[1], 1, "promoted")
    with Users(world.port, MODEL, rate_per_s=rate_per_s) as users:
        told.tally = users.tally
        _chapter(world, told, say, names[2], 2, "promoted")
        _chapter(world, told, say, names[3], 3, "rolled back", "errors", "error limit")
        _chapter(world, told, say, names[4], 4, "rolled back", "slow", "in the usual time")
        _chapter(world, told, say, names[5], 5, "rolled back", "nobody promoted it in 2 s")
        before = dict(users.tally.answers)
        _chapter(world, told, say, names[6], 6, "rolled back", "golden cases failed")
        _chapter(world, told, say, names[7], 7, "rolled back", "no weights here")
        for number in (6, 7):
            told.expect(not any(one == number for one, _ in users.tally.answers), f"revision {number} had traffic")
        _back_to_first(world, told)
        time.sleep(0.5)
        told.expect(before[2, 200] < users.tally.answers[2, 200], "revision 2 had no traffic at the end")
    _final(world, told)
    told.expect(json.loads(world.run("down", MODEL).out)["down"], "the model is not down after all")
    told.expect("down" in world.run("status", MODEL).out, "status does not say that the model is down")
    told.seconds = time.monotonic() - began_s
    return told


def _chapter(
    world: World, told: Told, say: Callable[[str], None], image: str, number: int, phase: str, *reasons: str
) -> None:
    """Deploy one revision, and look at how it ended; one of `reasons` must be given."""
    done = world.run("deploy", image)
    try:
        rollout = json.loads(done.out)["rollout"]
    except (ValueError, KeyError, TypeError):
        told.faults.append(f"revision {number}: exit {done.code}, {done.out[-500:]} {done.err[-2000:]}")
        return
    if rollout["phase"] != phase:
        told.faults.append(f"revision {number} is {rollout['phase']}, not {phase}: {rollout['reason']}")
        told.faults += [f"  {_in_short(verdict)}" for verdict in rollout["verdicts"]]
        told.faults += [f"  it wrote: {line}" for line in done.err.splitlines()]
    told.expect(done.code == (1 if phase == "rolled back" else 0), f"revision {number}: exit {done.code}")
    told.expect(
        not reasons or any(one in rollout["reason"] for one in reasons), f"revision {number}: {rollout['reason']!r}"
    )
    told.chapters.append(
        f"{number}: {rollout['phase']} after {world.seconds[f'deploy {image}']:.1f} s  {rollout['reason']}"
    )
    say(told.chapters[-1])
    passed = [verdict for verdict in rollout["verdicts"] if verdict["outcome"] == "pass"]
    for verdict in passed if phase == "promoted" else ():
        say(f"   {_in_short(verdict)}")


def _in_short(verdict: dict[str, Any]) -> str:
    """A verdict in a line, with the numbers that it rests on."""
    found = "; ".join(
        f"{one['signal']} {one['canary_events']}/{one['canary_requests']} against "
        f"{one['stable_events']}/{one['stable_requests']}: {one['evidence']:.3g}"
        for one in verdict["findings"]
    )
    return f"step {verdict['step']} {verdict['outcome']}: {verdict['reason']} ({found})"


def _back_to_first(world: World, told: Told) -> None:
    done = world.run("rollback", MODEL)
    told.expect(done.code == 0, f"rollback: exit {done.code} {(done.out + done.err)[-500:]}")
    told.chapters.append(f"rollback to 1 after {world.seconds[f'rollback {MODEL}']:.1f} s")


def _final(world: World, told: Told) -> None:
    """What is left, by three witnesses, and what the users say."""
    found = world.status()
    live = {one["number"]: one["live_percent"] for one in found["revisions"] if one["live_percent"]}
    running = {one["number"] for one in found["revisions"] if one["containers"]}
    told.expect(live == {1: 100}, f"the gateway gives {live}")
    told.expect(running == {1}, f"revisions {running} run")
    states = {one["number"]: one["state"] for one in found["revisions"]}
    wanted = {1: "stable", 2: "retired", **dict.fromkeys(range(3, 8), "rolled back")}
    told.expect(states == wanted or states == {**wanted, 2: "rolled back"}, f"states are {states}")
    lost = told.tally.lost(bad=(BAD,))
    told.expect(lost == 0, f"{lost} requests lost: {told.tally.trouble[:10]} {dict(told.tally.broken)}")
    told.expect(told.tally.errors(BAD) > 0, "nobody met the third revision's errors, so nothing was judged")
    history: dict[str, Any] = json.loads(world.run("history").out)
    told.expect(history["log_intact"], "the log is broken")
