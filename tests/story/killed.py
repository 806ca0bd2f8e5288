"""The watcher killed at random moments of a rollout, and started again: do state, gateway and containers agree?

Takes a world and how often, hands on what did not agree. After each kill `intermodal watch` goes on; within ten seconds
of its start the three witnesses must say the same of the rollout, wherever it stands by then.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from story.revisions import MODEL, make
from story.users import Users
from story.world import World

WITHIN_S = 10.0
_SETTLED = ("promoted", "rolled back")


def disagreement(found: dict[str, Any]) -> str:
    """What stored state, Envoy's weights and running containers do not agree in; "" when they do."""
    rollout, revisions = found["rollout"], {one["number"]: one for one in found["revisions"]}
    candidate, stable = rollout["candidate"], rollout["stable"]
    weights = {number: one["live_percent"] for number, one in revisions.items() if one["live_percent"]}
    wanted = {candidate: rollout["weight_percent"], stable: 100 - rollout["weight_percent"]}
    wanted = {number: share for number, share in wanted.items() if share and number is not None}
    if weights != wanted and not (stable is None and rollout["phase"] in ("starting", "checking")):
        return f"{rollout['phase']}: state wants {wanted}, Envoy has {weights}"
    for number in weights:
        if not revisions[number]["healthy"]:
            return f"{rollout['phase']}: revision {number} has traffic and nobody healthy"
    running = {number for number, one in revisions.items() if one["containers"]}
    if extra := running - {candidate, stable}:
        return f"{rollout['phase']}: revisions {extra} run besides"
    over = {"promoted": {candidate}, "rolled back": {stable} - {None}}.get(rollout["phase"])
    if over is not None and running != over:
        return f"{rollout['phase']}: {running} run"
    return ""


def kill_watchers(world: World, count: int, *, seed: int = 1, say: Callable[[str], None] = print) -> list[str]:
    """What did not hold in `count` kills, rollouts begun anew as they end."""
    rng, faults = random.Random(seed), []
    world.configure(few=60, many=60, bake="1s")
    names = [make(world.store, number) for number in (1, 2, 3)]
    assert world.run("deploy", names[0]).code == 0
    with Users(world.port, MODEL, rate_per_s=200.0) as users:
        number, turn = 0, 0
        while number < count:
            turn += 1
            watcher = world.begin("deploy", names[(1, 0, 2)[turn % 3]])
            while number < count:
                time.sleep(rng.uniform(0.5, 9.0))
                if watcher.poll() is not None:
                    break
                os.kill(watcher.pid, signal.SIGKILL)
                watcher.communicate()
                number += 1
                watcher = world.begin("watch", MODEL)
                faults += _agree(world, number, watcher, say)
            _end(watcher)
    lost = users.tally.lost(bad=tuple(range(1, 100)))
    if lost:
        faults.append(f"{lost} requests lost: {users.tally.trouble[:10]}")
    say(f"{users.tally.requests} requests, {lost} lost")
    return faults


def _agree(world: World, number: int, watcher: subprocess.Popen[str], say: Callable[[str], None]) -> list[str]:
    began_s, problem, found = time.monotonic(), "nothing was looked at", {}
    while time.monotonic() - began_s < WITHIN_S:
        done = world.run("status", MODEL)
        if done.code == 0:
            found = json.loads(done.out)
            if found["rollout"] is None:
                return []
            problem = disagreement(found)
            # agreed, and somebody watches or nothing is left to be done
            if not problem and (found["watched_by"] or found["rollout"]["phase"] in _SETTLED or watcher.poll() is None):
                say(f"kill {number}: {found['rollout']['phase']}, agreed after {time.monotonic() - began_s:.1f} s")
                return []
        else:
            problem = f"status: exit {done.code}: {(done.out + done.err)[-300:]}"
        time.sleep(0.1)
    say(f"kill {number}: {problem}")
    return [f"kill {number}: {problem}"]


def _end(watcher: subprocess.Popen[str]) -> None:
    try:
        watcher.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        watcher.kill()
        watcher.communicate()
