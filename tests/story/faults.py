"""What goes wrong around a rollout: each time it ends consistent, with a word that says what to do.

Takes a world with nothing deployed, hands on what was seen; an assertion that fails is a fault.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from intermodal.rooms.deploy.targets.docker import DockerTarget
from story.killed import disagreement
from story.revisions import MODEL, make
from story.users import Users
from story.world import World, complaint

PATIENCE_S = 240.0


def _wait(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.1)


def _first(world: World) -> str:
    """The first revision, promoted; the name of the second image."""
    done = world.run("deploy", make(world.store, 1))
    assert done.code == 0, done
    return make(world.store, 2)


def _rollout(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.status()["rollout"]
    return found


def _has_weight(world: World) -> bool:
    rollout = _rollout(world)
    return bool(rollout["candidate"] == 2 and 0 < rollout["weight_percent"] < 100)


def _ends(world: World, watcher: subprocess.Popen[str], *phases: str, note: str = "") -> str:
    """How a watched rollout ended; what is there then must agree with it. On the way it must have said `note`."""
    out, err = watcher.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err and note in err, err
    phase = str(json.loads(out)["rollout"]["phase"])
    assert phase in phases, f"{phase}: {out[-500:]} {err[-500:]}"
    _wait(lambda: not disagreement(world.status()), disagreement(world.status()))
    return phase


def _docker(world: World) -> DockerTarget:
    place = world.place()
    assert isinstance(place, DockerTarget)
    return place


def two_deploys(world: World) -> str:
    """The second one is refused, and says who is at it."""
    second = _first(world)
    third = make(world.store, 4)
    with Users(world.port, MODEL, rate_per_s=100):
        watcher = world.begin("deploy", second)
        _wait(lambda: _rollout(world)["candidate"] == 2, "the rollout to begin")
        other = world.run("deploy", third)
        said = complaint(other)
        assert "process" in said, said
        _ends(world, watcher, "promoted")
    return said


def daemon_restarted(world: World) -> str:
    """Docker's daemon ends and begins again in the middle of a step; without live-restore its containers do, too."""
    second = _first(world)
    assert world.engine is not None and world.engine.restart is not None
    with Users(world.port, MODEL, rate_per_s=100) as users:
        watcher = world.begin("deploy", second)
        _wait(lambda: _has_weight(world), "the first step")
        world.engine.restart()
        phase = _ends(world, watcher, "promoted", "rolled back")
        before = users.tally.answers.total()
        _wait(lambda: users.tally.answers.total() > before + 50, "answers after it")
    return f"{phase}; {users.tally.lost()} of {users.tally.requests} requests lost meanwhile, stated, not promised away"


def gateway_killed(world: World) -> str:
    """Envoy dies in the middle of a step."""
    second = _first(world)
    with Users(world.port, MODEL, rate_per_s=100) as users:
        watcher = world.begin("deploy", second)
        _wait(lambda: _has_weight(world), "the first step")
        machine = _docker(world)._machine
        found = machine.gateway()
        assert found is not None
        os.kill(machine.inspect(found.id)["State"]["Pid"], signal.SIGKILL)
        phase = _ends(world, watcher, "promoted", "rolled back")
    return f"{phase}; {users.tally.lost()} of {users.tally.requests} requests lost meanwhile"


def port_taken(world: World) -> str:
    """Somebody else listens: nothing is started."""
    image = make(world.store, 1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", world.port))
        other.listen()
        done = world.run("deploy", image)
    said = complaint(done)
    assert f"port {world.port}" in said and "--port" in said, said
    assert _docker(world)._machine.containers() == []
    return said


def image_deleted(world: World) -> str:
    """Containers and images are gone from the engine: `watch` brings back what the state says."""
    _first(world)
    environment = {**os.environ, **world.variables}
    for words in ("docker rm -f $(docker ps -aq)", "docker rmi -f $(docker images -aq)", "docker volume rm intermodal"):
        subprocess.run(["sh", "-c", words], env=environment, check=True, capture_output=True)
    watcher = world.begin("watch", MODEL)
    _ends(world, watcher, "promoted")
    with Users(world.port, MODEL, rate_per_s=50) as users:
        time.sleep(1)
    assert users.tally.lost() == 0 and users.tally.answers[1, 200], users.tally.trouble
    return "the same revision answers again"


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A folder that has little room, with what lies in it now."""
    kept = folder.with_suffix(".kept")
    subprocess.run(["cp", "-a", folder, kept], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def disk_full(world: World) -> str:
    """No room for the state: nothing is done that could not be stored; with room again it goes on."""
    second = _first(world)
    with _small_disk(world.host.data_dir / "deploy") as folder, Users(world.port, MODEL, rate_per_s=100) as users:
        watcher = world.begin("deploy", second)
        _wait(lambda: _has_weight(world), "the first step")
        with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        time.sleep(8)
        assert watcher.poll() is None, watcher.communicate()
        (folder / "filler").unlink()
        phase = _ends(world, watcher, "promoted", "rolled back")
        assert json.loads(world.run("history").out)["log_intact"]
        lost = users.tally.lost()
        world.run("down", MODEL)
    assert lost == 0, users.tally.trouble
    return f"{phase} once there was room, nobody lost"


def clock_set_back(world: World) -> str:
    """The machine's time falls by a day: steps are still counted in seconds that passed."""
    second = _first(world)
    with sqlite3.connect(world.host.data_dir / "deploy" / "state.db") as state:
        state.execute("UPDATE clock SET last_s = last_s + 86400")  # as if it had been a day later until now
    state.close()
    with Users(world.port, MODEL, rate_per_s=200):
        _ends(world, world.begin("deploy", second), "promoted")
    assert json.loads(world.run("history").out)["log_intact"]
    return "promoted as ever"


def clock_set_forward(world: World) -> str:
    """While nobody watches a day passes: the step's time is over, which holds it and raises nothing; requests do."""
    second = _first(world)
    with Users(world.port, MODEL, rate_per_s=200):
        watcher = world.begin("deploy", second)
        _wait(lambda: _has_weight(world), "the first step")
        watcher.kill()
        watcher.communicate()
        with sqlite3.connect(world.host.data_dir / "deploy" / "state.db") as state:
            since = "json_extract(rollout, '$.since_s') - 86400"
            state.execute(f"UPDATE rollouts SET rollout = json_set(rollout, '$.since_s', {since}) WHERE over = 0")
        state.close()
        _ends(world, world.begin("watch", MODEL), "promoted", note="undecided in the step's time")
    assert json.loads(world.run("history").out)["log_intact"]
    return "held, then promoted by requests"


def index_away(world: World) -> str:
    """No index answers: the first deploy says so and leaves nothing; once there is a gateway none is needed."""
    image = make(world.store, 1)
    away = {"XDG_CACHE_HOME": str(world.home / "empty"), "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    away |= {
        "UV_INDEX_URL": away["PIP_INDEX_URL"],
        "UV_DEFAULT_INDEX": away["PIP_INDEX_URL"],
        "PIP_EXTRA_INDEX_URL": "",
    }
    done = world.run("deploy", image, env=away)
    said = complaint(done)
    assert _docker(world)._machine.containers() == []
    second = _first(world)
    with Users(world.port, MODEL, rate_per_s=200):
        again = world.run("deploy", second, env=away)
    assert again.code == 0, again
    return said


FAULTS: dict[str, Callable[[World], str]] = {
    one.__name__: one
    for one in (
        two_deploys, daemon_restarted, gateway_killed, port_taken, image_deleted, disk_full, clock_set_back,
        clock_set_forward, index_away,
    )
}  # fmt: skip
