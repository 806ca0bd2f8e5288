"""The room `push`: is the image in the registry, with everything that belongs to it? And back: `pull`.

Takes an image of the store and a reference, hands on a `PushReport` with the digest that the registry now has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal.rooms.push.report import PullReport, PushReport

if TYPE_CHECKING:
    from intermodal.rooms.push.receive import pull
    from intermodal.rooms.push.room import push

__all__ = ["PullReport", "PushReport", "pull", "push"]

_HOMES = {"push": "room", "pull": "receive"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'intermodal.rooms.push' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"intermodal.rooms.push.{_HOMES[name]}"), name)
