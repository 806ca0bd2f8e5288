"""Deployments, crashes and rollbacks one after the other under constant load, and a gateway that dies.

Takes a world and how often, hands on what was lost. Rules that it holds the product to, in order:
1. Nobody loses a request in deploys, promotions, rollbacks and crashes of a replica (there are two of each revision).
2. While the gateway itself is dead, connections are refused: how many and for how long is measured, not judged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from story.revisions import MODEL, SOURCES, make
from story.users import Tally, Users
from story.world import World

GOOD = (1, 2)
RATE_PER_S = 200.0


@dataclass
class Churned:
    """What happened."""

    deploys: int = 0
    rollbacks: int = 0
    crashes: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


@dataclass
class GatewayDeath:
    """What users saw of a gateway that was killed."""

    refused: int = 0  # connections, and requests that were under way
    seconds: float = 0.0  # from the first request without an answer to the last
    answered: int = 0
    told: list[str] = field(default_factory=list)


def churn(world: World, count: int, *, seed: int = 1, say: Callable[[str], None] = print) -> Churned:
    """`count` turns: a deploy that is promoted, and now and then a rollback or a replica killed."""
    found, rng, began_s = Churned(), random.Random(seed), time.monotonic()
    world.configure(few=30, many=30, bake="1s", replicas=2)
    names = [make(world.store, one) for one in GOOD]
    _step(world, found, "deploy", names[0])
    with Users(world.port, MODEL, rate_per_s=RATE_PER_S) as users:
        found.tally = users.tally
        for turn in range(count):
            before, did = found.tally.lost(), (found.deploys, found.rollbacks, found.crashes)
            if rng.random() < 0.3:
                _crash(world, found, rng)
            if turn % 5 == 4 and _step(world, found, "rollback", MODEL):
                found.rollbacks += 1
            elif _step(
                world, found, "deploy", names[_other(world)], "--strategy", rng.choice(("canary", "blue-green"))
            ):
                found.deploys += 1
            lost = found.tally.lost() - before
            say(f"{turn + 1} of {count}: {found.tally.requests} requests, {lost} lost in this turn")
            if lost:
                say(f"  after {did}: {Counter(line.split(' ', 1)[1] for line in found.tally.trouble)}")
        time.sleep(1)
    if found.tally.lost():
        found.faults.append(f"{found.tally.lost()} lost: {dict(found.tally.answers)} {found.tally.trouble[:20]}")
    found.seconds = time.monotonic() - began_s
    return found


def _other(world: World) -> int:
    """The index of the image that does not run now."""
    revisions = world.status()["revisions"]
    live = next(one["digest"] for one in revisions if one["live_percent"] == 100)
    images = [str(world.store.resolve(f"{MODEL}:{one}").digest) for one in GOOD]
    return 1 - images.index(live)


def _step(world: World, found: Churned, *words: str) -> bool:
    done = world.run(*words)
    try:
        phase = json.loads(done.out)["rollout"]["phase"]
    except (ValueError, KeyError, TypeError):
        phase = f"exit {done.code}: {(done.out + done.err)[-500:]}"
    # going back ends in "rolled back", because that is what was asked for
    fine = phase == ("promoted" if words[0] == "deploy" else "rolled back")
    if not fine:
        found.faults.append(f"{' '.join(words)}: {phase}: {done.out[-300:]}")
    return fine


def _crash(world: World, found: Churned, rng: random.Random) -> None:
    """Kill one replica of the revision that has the traffic, with requests under way."""
    from intermodal.rooms.deploy.targets.docker import DockerTarget

    place = world.place()
    assert isinstance(place, DockerTarget), "replicas are killed through their engine"
    machine = place._machine
    live = next(one["number"] for one in world.status()["revisions"] if one["live_percent"] == 100)
    pids = [machine.inspect(one.id)["State"]["Pid"] for one in machine.containers(model=MODEL, revision=str(live))]
    os.kill(rng.choice([pid for pid in pids if pid]), signal.SIGKILL)
    found.crashes += 1


def gateway_dies(world: World) -> GatewayDeath:
    """Envoy killed with -9 under load, started again by its engine."""
    from intermodal.rooms.deploy.targets.docker import DockerTarget

    found = GatewayDeath()
    place = world.place()
    assert isinstance(place, DockerTarget)
    with Users(world.port, MODEL, rate_per_s=RATE_PER_S) as users:
        time.sleep(1)
        container = place._machine.gateway()
        assert container is not None
        os.kill(place._machine.inspect(container.id)["State"]["Pid"], signal.SIGKILL)
        time.sleep(4)
        at_end = users.tally.answers.total()
        time.sleep(1)
        found.told = users.tally.trouble[:5]
    found.refused, found.answered = users.tally.lost(), users.tally.answers.total()
    stamps = [float(line.split(" ", 1)[0]) for line in users.tally.trouble]
    found.seconds = stamps[-1] - stamps[0] if stamps else 0.0
    assert found.answered > at_end, "the gateway did not come back"
    return found


assert set(GOOD) <= SOURCES.keys()
