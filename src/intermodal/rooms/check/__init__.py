"""The room `check`: does an image start under least privilege, become ready, and give its golden predictions?

Takes an image in the store and an engine, hands on a `CheckReport`, also to the store, so that a second walk through
the corridor knows (`find_report`).
"""

from __future__ import annotations

from intermodal.rooms.check.report import CheckReport, find_report
from intermodal.rooms.check.room import check

__all__ = ["CheckReport", "check", "find_report"]
