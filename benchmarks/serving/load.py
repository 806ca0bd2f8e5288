"""Closed-loop load by wrk, one thread, and what the server spent on it."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import kitchen
from benchmarks.serving.contenders import Running

WARM_UP_S = 1


@dataclass(frozen=True)
class Point:
    """One measured load."""

    rate: float  # requests a second
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server's tree, per request
    requests: int
    load: float  # of the machine, over the last minute


def _wrk(server: Running, body: Path, connections: int, seconds: int, headers: Sequence[str]) -> dict[str, int]:
    command = [kitchen.wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-s", str(kitchen.HERE / "lua" / "post.lua"), server.url, "--", str(body), *headers]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    if found["failed"] or found["broken"]:
        raise RuntimeError(f"{server.contender.name} failed under load: {found}")
    return found


def measure(
    server: Running, body: Path, connections: int, seconds: int, headers: Sequence[str] = ("application/json",)
) -> Point:
    """The server under so many connections that each send `body` again as soon as it is answered.

    Raises:
        RuntimeError: an answer was not a success, or a connection broke.
    """
    _wrk(server, body, connections, WARM_UP_S, headers)
    before_s = server.cpu_s()
    found = _wrk(server, body, connections, seconds, headers)
    cpu_s = server.cpu_s() - before_s
    if not found["requests"]:
        raise RuntimeError(f"{server.contender.name} answered nothing in {seconds} s")
    return Point(
        rate=found["requests"] / (found["duration"] / 1e6),
        p50_ms=found["p50"] / 1000,
        p99_ms=found["p99"] / 1000,
        cpu_us=cpu_s * 1e6 / found["requests"],
        requests=found["requests"],
        load=round(_load(), 2),
    )


def _load() -> float:
    return float(Path("/proc/loadavg").read_text().split()[0])


@contextmanager
def probing(server: Running, every_s: float = 0.02) -> Iterator[list[float]]:
    """Ask the health address on a connection of its own all the time; milliseconds of each answer, in order."""
    taken: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        while not stop.wait(every_s):
            begin = time.perf_counter()
            connection.request("GET", server.contender.health)
            answer = connection.getresponse()
            answer.read()
            taken.append((time.perf_counter() - begin) * 1000)
            if answer.status != 200:
                raise RuntimeError(f"{server.contender.name}: health says {answer.status}")
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()
