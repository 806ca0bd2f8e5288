"""Downloads, for the rooms: files by digest into a cache, and small documents.

The only place beside `engine` and `registry` that opens sockets. Takes `Request`s or an address and a `Host`; hands
on paths or bytes. Names are loaded when first used: a build that fetches nothing pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intermodal.fetch.download import Request, fetch_all
    from intermodal.fetch.transfer import NotThereError, fetch_bytes

__all__ = ["NotThereError", "Request", "fetch_all", "fetch_bytes"]

_HOMES = {"Request": "download", "fetch_all": "download", "NotThereError": "transfer", "fetch_bytes": "transfer"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'intermodal.fetch' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"intermodal.fetch.{_HOMES[name]}"), name)
