"""The one column of our own in progress bars; a file apart, because it can only be defined once rich is imported."""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text

from intermodal.cli.output import size


class AmountColumn(ProgressColumn):
    """How much of a task is done: sizes for bytes, counts for items, nothing when the total is unknown."""

    def render(self, task: Task) -> Text:
        """The cell of one task."""
        if task.fields.get("unit") == "bytes":
            done = size(int(task.completed))
            return Text(f"{done} of {size(int(task.total))}" if task.total else done, style="dim")
        if task.total is None:
            return Text(str(int(task.completed)) if task.completed else "", style="dim")
        return Text(f"{int(task.completed)} of {int(task.total)}", style="dim")
