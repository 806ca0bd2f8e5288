"""Somebody at a machine of their own, for tests that talk to registries."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from intermodal.host import Host
from intermodal.oci.layout import Store
from intermodal.registry.pace import Speed
from intermodal.registry.patience import Manner, Patience
from support.machine import machine


def somebody(home: Path, **environment: str) -> tuple[Host, Store]:
    """Their machine, and their empty store."""
    host = machine(home, **{"PATH": "/usr/bin:/bin", **environment})
    return host, Store(host.data_dir / "store").open_or_create()


def docker_login(home: Path, address: str, user: str, password: str, **more: object) -> None:
    """What `docker login` writes."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (home / ".docker").mkdir(parents=True, exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}, **more}))


class Clock:
    """Sleeping that takes no time, and remembers how long it would have been."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, pause_s: float) -> None:
        self.slept.append(pause_s)


def quick(sleep: Callable[[float], None] | None = None, *, attempts: int = 6, read_s: float = 10.0) -> Manner:
    """The usual manner, without its pauses."""
    patience = Patience(attempts=attempts, sleep=sleep or Clock().sleep, jitter=lambda: 0.5)
    return Manner(patience, Speed(least_bytes=4096, window_s=0.5), read_s)
