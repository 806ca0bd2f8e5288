"""The room `check`: does an image start under least privilege, become ready, and give its golden predictions?

Takes an image in the store and an engine, hands on a `CheckReport`, also to the store, so that a second walk through
the corridor knows (`find_report`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal.rooms.check.report import CheckReport, find_report, measured_mode

if TYPE_CHECKING:
    from intermodal.rooms.check.room import check

__all__ = ["CheckReport", "check", "find_report", "measured_mode"]


def __getattr__(name: str) -> object:
    if name != "check":  # loaded when entered: its HTTP client costs more than a whole look at an old report
        raise AttributeError(f"module 'intermodal.rooms.check' has no attribute {name!r}")
    from intermodal.rooms.check.room import check

    return check
