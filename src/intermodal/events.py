"""Progress and notices: rooms emit, `cli` draws.

Takes nothing from the corridor; every room is handed an `Events` and tells it what happens. The base class
swallows everything, so libraries and tests need no special case; `cli` subclasses it with rich, tests record.

Rules: a room never prints; anything that may take longer than a second opens a `task`; a `notice` is something
the user should know but need not act on; a `warning` also goes into the `warnings[]` of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Task:
    """One running piece of work; `advance` may be called from any thread."""

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more units as done (bytes or items, as the task said)."""

    def label(self, text: str) -> None:
        """Replace the text shown beside the bar."""


class Events:
    """Where rooms report to; this base keeps silent."""

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "items") -> Iterator[Task]:
        """Open a piece of work for the length of a `with` block.

        Args:
            label: what is being done, as a short phrase ("fetch wheels").
            total: expected amount in `unit`, or None when unknown.
            unit: "bytes" or "items".
        """
        yield Task()

    def notice(self, message: str) -> None:
        """Tell something worth knowing."""

    def output(self, line: str) -> None:
        """Pass on a line that the program being run wrote itself; it may hold anything."""

    def warning(self, message: str) -> None:
        """Tell something worth acting on; also ends up in the result's `warnings`."""


SILENT = Events()
