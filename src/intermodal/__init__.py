"""From a trained model to a container that behaves the same everywhere.

    inspect -> lock -> build -> check -> push -> deploy -> watch        (attest follows)

Each room is one function, offered here and loaded when first used; `intermodal.pack` is for notebooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from intermodal.golden.pack import pack
    from intermodal.rollouts import deploy
    from intermodal.rooms.build import build
    from intermodal.rooms.check import check
    from intermodal.rooms.inspect import inspect
    from intermodal.rooms.lock import lock
    from intermodal.rooms.push import pull, push

__all__ = ["__version__", "build", "check", "deploy", "inspect", "lock", "pack", "pull", "push"]

_HOMES = {
    "build": "intermodal.rooms.build",
    "check": "intermodal.rooms.check",
    "deploy": "intermodal.rollouts",
    "inspect": "intermodal.rooms.inspect",
    "lock": "intermodal.rooms.lock",
    "pack": "intermodal.golden.pack",
    "pull": "intermodal.rooms.push",
    "push": "intermodal.rooms.push",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'intermodal' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
