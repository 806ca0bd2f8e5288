"""Progress on standard error: bars on a terminal, one plain line a task elsewhere.

Takes what rooms emit. rich is imported when the first task opens on a terminal, because it costs more than most
commands take.

Rules, in order:
1. Nothing goes to standard output.
2. No bars, no colours and no cursor movement where standard error is no terminal or `TERM=dumb`; `NO_COLOR` is kept.
3. `quiet` draws nothing, and still remembers every notice and warning for the result.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from intermodal.events import Events, Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class _Bar(Task):
    def __init__(self, progress: Progress, identity: TaskID) -> None:
        self._progress, self._id = progress, identity

    def advance(self, amount: int = 1) -> None:
        self._progress.advance(self._id, amount)

    def label(self, text: str) -> None:
        self._progress.update(self._id, description=text)


class Terminal(Events):
    """Events drawn for the person who typed the command; `told` keeps notices and warnings in order."""

    def __init__(self, environment: Mapping[str, str], *, quiet: bool = False) -> None:
        self.told: list[str] = []
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty() and environment.get("TERM") != "dumb"
        self._progress: Progress | None = None
        self._open = 0
        self._lock = threading.Lock()

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "items") -> Iterator[Task]:
        """A bar, or a line, for the length of a `with` block."""
        if not self._live:
            if not self._quiet:
                self._line(f"{label} …")
            yield Task()
            return
        with self._lock:
            progress = self._progress or self._start()
            self._open += 1
            identity = progress.add_task(label, total=total, unit=unit)
        try:
            yield _Bar(progress, identity)
        finally:
            with self._lock:
                progress.remove_task(identity)
                self._open -= 1
                if not self._open:
                    self._stop()

    def notice(self, message: str) -> None:
        """A line that begins with "note:"."""
        self._tell("note", message)

    def warning(self, message: str) -> None:
        """A line that begins with "warning:"."""
        self._tell("warning", message)

    def output(self, line: str) -> None:
        """The line as it is, less what would steer the terminal."""
        if not self._quiet:
            self._line("".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line))

    def close(self) -> None:
        """Take the bars away; safe to call twice."""
        with self._lock:
            self._stop()

    def _tell(self, kind: str, message: str) -> None:
        if message in self.told:
            return
        self.told.append(message)
        if not self._quiet:
            self._line(f"{kind}: {message}")

    def _line(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from intermodal.cli.bars import AmountColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            AmountColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        return self._progress

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
