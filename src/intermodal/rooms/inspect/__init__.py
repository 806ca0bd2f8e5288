"""Room one: what is this model, what does it need, is it safe to open, what goes in and comes out?

Takes a `Project` (or what `project.load` makes of a bare file) and hands a `ModelCard` to `lock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal.events import SILENT, Events
from intermodal.rooms.inspect.card import ModelCard

if TYPE_CHECKING:
    from intermodal.host import Host
    from intermodal.project.value import Project

__all__ = ["ModelCard", "inspect"]


def inspect(project: Project, *, host: Host, events: Events = SILENT) -> ModelCard:
    """The model card of a project's artifact, found out without importing or executing any of it.

    Args:
        project: what the user wants shipped; artifact, predictor, golden and trust are used.
        host: this machine; nothing of it decides what the card says.
        events: where progress goes.

    Returns:
        The card. For a model that would run code outside the allow-list `safe` is False, and the findings say what it
        would have run.

    Raises:
        ArtifactError: missing, empty, truncated, damaged, or no model; the message says what the bytes look like.
    """
    from intermodal.rooms.inspect.room import inspect_project

    del host  # the card is the same on every machine
    return inspect_project(project, events)
