"""The room `watch`: is the new revision as good as the old one?

Takes counts of time windows of both revisions, hands on a `Verdict` for `deploy.advance`. So far it holds the judge;
gathering the counts is not built yet. Nothing here reads a clock or opens a connection.
"""

from __future__ import annotations

from intermodal.rooms.watch.counts import Arm, Evidence, Split, Window
from intermodal.rooms.watch.judge import Rules, judge

__all__ = ["Arm", "Evidence", "Rules", "Split", "Window", "judge"]
