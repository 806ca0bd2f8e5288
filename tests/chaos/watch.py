"""What can be seen of a server from outside: its processes, their memory and descriptors, and what its probes say.

Takes a running server, hands on samples; judges nothing but whether a probe told the truth.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.serving import Served

from chaos.client import CLOSED, Came, Client
from chaos.verdict import RIGHT, Asked, judge

MARK = b"INTERMODAL_CHILD="
SETTLING_S = 1.0  # between an event and its line in the log, or on the probe


@dataclass(frozen=True)
class Seen:
    """One look at the processes."""

    supervisor_bytes: int
    front_bytes: int
    supervisor_descriptors: int
    front_descriptors: int
    processes: int


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in lines if ":" in line)


def family(root: int) -> list[int]:
    """Everything below `root` that runs, and whatever elsewhere bears the mark of this supervisor's children."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            status = _status(int(entry.name))
            if status and status["State"].split()[0] not in "ZX":
                parents[int(entry.name)] = int(status["PPid"])
    found, level = [], [root]
    while level:
        level = [pid for pid, parent in parents.items() if parent in level]
        found.extend(level)
    return found


def zombies(root: int) -> int:
    """Dead children that nobody has reaped."""
    count = 0
    for entry in Path("/proc").iterdir():
        status = _status(int(entry.name)) if entry.name.isdigit() else {}
        count += bool(status) and status["State"].split()[0] == "Z" and int(status["PPid"]) == root
    return count


def marked(root_path: str) -> list[int]:
    """Processes of any server over that root folder, found by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if MARK in environment and root_path.encode() in environment:
            found.append(int(entry.name))
    return found


def look(server: Served) -> Seen:
    """The processes now."""
    fronts = server.children("front")
    front = fronts[-1] if fronts else 0

    def rss(pid: int) -> int:
        return int(_status(pid).get("RssAnon", "0 kB").split()[0]) << 10

    def descriptors(pid: int) -> int:
        try:
            return len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            return 0

    pid = server.process.pid
    return Seen(rss(pid), rss(front), descriptors(pid), descriptors(front), len(family(pid)))


@dataclass
class Probing:
    """What the probes said during the campaign."""

    ready: int = 0
    unready: int = 0
    not_live: list[Came] = field(default_factory=list)
    silent: int = 0
    slowest_s: float = 0.0
    claims: list[tuple[Came, str, str]] = field(default_factory=list)  # probe, reason, what a good request got then


async def probe(client: Client, probing: Probing, in_front: bool) -> None:
    """Ask both probes, and see whether a ready server answers."""
    live = await client.ask("GET", "/v2/health/live", fresh=True)
    ready = await client.ask("GET", "/v2/health/ready", fresh=True)
    probing.slowest_s = max(probing.slowest_s, live.came_s - live.asked_s, ready.came_s - ready.asked_s)
    if live.status != 200 and live.status != CLOSED:
        probing.not_live.append(live)
    if ready.status == 200:
        probing.ready += 1
        asked = Asked((1.0, 2.0))
        came = await client.ask("POST", "/v2/models/chaos/infer", asked.body, fresh=True)
        word = judge(asked, came, in_front=in_front)
        if word != RIGHT:
            probing.claims.append((ready, "", word))
    elif ready.status == 503:
        probing.unready += 1
        probing.claims.append((ready, str(json.loads(ready.body).get("reason", "")), ""))
    else:
        probing.silent += ready.status != CLOSED


async def probe_forever(client: Client, probing: Probing, in_front: bool, every_s: float) -> None:
    """Until cancelled."""
    while True:
        await probe(client, probing, in_front)
        await asyncio.sleep(every_s)


# --- the log ----------------------------------------------------------------------------------------------------------
def _time(line: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


def happened(log: list[dict[str, Any]], *, fronts_only: bool) -> Iterator[float]:
    """When a process that matters ended, hung, was replaced or began to answer."""
    for line in log:
        of_front = line["message"].startswith(("front", "the front", "twin"))
        of_model = line["part"] == "supervisor" or line["message"] in ("model loaded", "a worker lost its request")
        if (line["part"] == "supervisor" and of_front) or (of_model and not fronts_only):
            yield _time(line)


def unsettled(log: list[dict[str, Any]], at_s: float) -> bool:
    """Whether the last thing that had happened then was no arrival: a process was still on its way."""
    last = ""
    for line in log:
        if _time(line) > at_s:
            break
        if line["part"] == "supervisor" or line["message"] == "model loaded":
            last = line["message"]
    return last not in ("ready", "model loaded")


def between(times: list[float], first_s: float, last_s: float) -> bool:
    """Whether anything happened in that time."""
    return any(first_s <= at <= last_s for at in times)
