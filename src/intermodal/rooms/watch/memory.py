"""What a watcher must not forget of a rollout, stored with it.

Takes what was wished and seen, hands on text and back. It is this room's own: `deploy` keeps it without reading it.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from intermodal.project.schema import Notify
from intermodal.rooms.deploy.rollout import Rollout
from intermodal.rooms.deploy.state import Stored
from intermodal.rooms.deploy.wish import Wish
from intermodal.rooms.watch.choice import Choice
from intermodal.rooms.watch.counts import Evidence
from intermodal.rooms.watch.judge import Rules
from intermodal.rooms.watch.observe import Setting
from intermodal.rooms.watch.rules import rules_of


class Memory(Struct, frozen=True):
    """Rules, who is told, and what was counted so far."""

    rules: Rules = Rules()
    setting: Setting | None = None
    evidence: Evidence = Evidence()
    choice: Choice = Choice()
    notify: Notify = Notify()
    golden_key: str = ""  # reference, never the key

    def text(self) -> str:
        """As it is stored."""
        return msgspec.json.encode(self).decode()


def read_memory(stored: Stored) -> Memory:
    """What was stored; the defaults where nothing was."""
    return msgspec.json.decode(stored.memory, type=Memory) if stored.memory else Memory()


def first_memory(rollout: Rollout, wish: Wish) -> str:
    """What a rollout begins with."""
    rules = rules_of(wish.analysis)
    setting = Setting(rollout.candidate, rollout.stable, sticky=bool(wish.exposure.sticky), max_p99_s=rules.max_p99_s)
    return Memory(rules, setting, notify=wish.notify, golden_key=wish.golden_key).text()
