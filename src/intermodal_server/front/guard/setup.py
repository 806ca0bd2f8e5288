"""Which guards a server has: those that its settings ask for, in the order in which they look.

Takes options, settings, health and log, hands on guards and the observers that they need.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable

from intermodal_server.contract import ModelSettings
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.guard.access import ALL_HEALTH, ApiKeys, OpenPaths
from intermodal_server.front.guard.keys import KeyRing
from intermodal_server.front.guard.rates import Rates
from intermodal_server.front.health import Health
from intermodal_server.log import Log
from intermodal_server.options import Options


@dataclass(frozen=True)
class Guards:
    """What the application is given."""

    guards: tuple[Callable[[Exchange], None], ...] = ()
    observers: tuple[Callable[[Exchange, int], None], ...] = ()


def make_guards(options: Options, settings: ModelSettings, health: Health, log: Log) -> Guards:
    """The guards of this server; none when nothing is asked for."""
    serve = settings.serve
    listed = [*options.open_paths, *([options.vertex.health] if ALL_HEALTH in options.open_paths else [])]
    open_paths = OpenPaths(filter(None, listed), settings.name, settings.version)
    guards: list[Callable[[Exchange], None]] = []
    observers: list[Callable[[Exchange, int], None]] = []
    if serve.api_keys:
        ring = KeyRing(serve.api_keys, log)
        ring.refresh(time.monotonic())
        health.blocked = ring.problem
        guards.append(ApiKeys(ring, open_paths, health))
    if serve.rate_per_s or serve.max_concurrent:
        rates = Rates(serve.rate_per_s, serve.rate_burst, serve.max_concurrent, open_paths)
        guards.append(rates)
        observers.append(rates.ended)
    return Guards(tuple(guards), tuple(observers))
