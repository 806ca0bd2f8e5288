"""Words for people: tables, sizes, durations, errors; and progress with and without a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from intermodal.cli.errors import render
from intermodal.cli.output import Output, seconds, size, table, write
from intermodal.cli.progress import Terminal
from intermodal.errors import ContradictionError, Interrupted


def test_the_message_that_style_shows() -> None:
    error = ContradictionError(
        "model.joblib was saved by scikit-learn 1.3.2, but the lock has 1.9.1",
        found="_sklearn_version '1.3.2' in 3 estimators (Pipeline, StandardScaler, RandomForestClassifier)",
        next='pin it: requirements = ["scikit-learn==1.3.2"], or re-save the model under 1.9.1',
    )
    assert render(error) == (
        "error: model.joblib was saved by scikit-learn 1.3.2, but the lock has 1.9.1\n"
        "  found   _sklearn_version '1.3.2' in 3 estimators (Pipeline, StandardScaler, RandomForestClassifier)\n"
        '  next    pin it: requirements = ["scikit-learn==1.3.2"], or re-save the model under 1.9.1'
    )
    assert render(Interrupted("stopped")) == "interrupted: stopped"
    assert "\x1b[" in render(error, color=True)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (999_949, "999.9 KB"), (999_950, "1.0 MB"),
        (2_500_000_000, "2.5 GB"), (7 * 10**12, "7.0 TB"),
    ],
)  # fmt: skip
def test_sizes(amount: int, text: str) -> None:
    assert size(amount) == text


def test_tables_and_durations() -> None:
    assert table([("a", "1", "x"), ("bcd", "22", "")], right=[1]) == "a     1  x\nbcd  22"
    assert (seconds(0.034), seconds(9.876), seconds(75.3)) == ("0.03 s", "9.88 s", "75 s")


def test_one_document_with_all_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    write(Output({"warnings": ["a"], "x": "é"}, "text", 0, ("b", "a")), as_json=True)
    assert capsys.readouterr().out == '{\n  "warnings": [\n    "a",\n    "b"\n  ],\n  "x": "é"\n}\n'
    write(Output({}, "text"), as_json=False)
    assert capsys.readouterr().out == "text\n"


class Screen(io.StringIO):
    """A terminal that remembers what was drawn."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_task_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    events = Terminal({})
    with events.task("fetch wheels", total=10, unit="bytes") as task:
        task.advance(5)
        events.notice("a notice")
        events.notice("a notice")
        events.warning("a warning")
    events.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "fetch wheels …\nnote: a notice\nwarning: a warning\n"
    assert events.told == ["a notice", "a warning"]


def test_quiet_remembers_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    events = Terminal({}, quiet=True)
    with events.task("fetch"):
        events.warning("w")
    assert capsys.readouterr().err == ""
    assert events.told == ["w"]


def test_on_a_terminal_bars_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    events = Terminal({"TERM": "xterm"})
    with events.task("fetch [bold]wheels", total=2_000_000, unit="bytes") as task, events.task("hash") as inner:
        task.advance(1_000_000)
        task.label("fetch numpy")
        inner.advance()
        events.warning("a [red]warning")
        events._progress.refresh() if events._progress else None
    events.close()
    drawn = screen.getvalue()
    assert "fetch numpy" in drawn
    assert "1.0 MB of 2.0 MB" in drawn
    assert "a [red]warning" in drawn, "what rooms say is no markup"
    assert events._progress is None


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Terminal({"TERM": "dumb"}).task("fetch wheels", total=3):
        pass
    assert screen.getvalue() == "fetch wheels …\n"
