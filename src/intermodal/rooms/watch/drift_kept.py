"""Drift of a deployed revision: where it is kept, looked at and told.

Takes the state file, a model and its target. Rules: looking stores nothing unless asked to; a change from quiet to
warning, and back, is a line of the deployment log and a notification, and nothing else follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from intermodal.rooms.deploy import answers
from intermodal.rooms.deploy.state import Model, StateFile
from intermodal.rooms.deploy.target import Target
from intermodal.rooms.watch.drift import Drift, begin, look


def stored_drift(state: StateFile, model: Model, revision: int) -> Drift:
    """As it was at the last look."""
    text = answers.drift_of(state, model, revision)
    return msgspec.json.decode(text, type=Drift) if text else Drift()


def begin_drift(state: StateFile, model: Model, revision: int, target: Target) -> None:
    """At promotion: keep what later traffic is compared with; once."""
    if not answers.drift_of(state, model, revision):
        _keep(state, model, revision, begin(target.reports(revision)))


def drift_now(state: StateFile, model: Model, revision: int, target: Target) -> Drift:
    """With what came since the last look; nothing is stored."""
    return look(stored_drift(state, model, revision), target.reports(revision))


def look_and_keep(
    state: StateFile, model: Model, revision: int, target: Target, tell: Callable[[Mapping[str, Any]], None]
) -> Drift:
    """Look, store, and tell when it changed whether a person should look."""
    before = stored_drift(state, model, revision)
    now = look(before, target.reports(revision))
    _keep(state, model, revision, now)
    if now.warns != before.warns:
        moved = [one.sentence() for one in now.shifts if one.warns]
        what = "drift" if now.warns else "drift is over"
        with state.transaction():
            state.note(model.target, model.name, what, revision=revision, moved=moved)
        tell({"model": model.name, "target": model.target, "what": what, "revision": revision, "moved": moved})
    return now


def _keep(state: StateFile, model: Model, revision: int, drift: Drift) -> None:
    answers.keep_drift(state, model, revision, msgspec.json.encode(drift).decode())
