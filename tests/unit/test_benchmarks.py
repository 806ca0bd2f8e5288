"""What the benchmarks rest on that is no measurement: their lists, their one changed line, their page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support.cli import CHECKOUT

sys.path.append(str(CHECKOUT))  # the benchmarks are part of the checkout, not of the package

import benchmarks.build as build
from benchmarks import measure
from benchmarks.build import rows, splice, workshop

PAGE = CHECKOUT / "docs" / "benchmarks.md"


def groups() -> list[str]:
    bench = object.__new__(rows.Bench)
    return list(rows.names(bench))


def test_the_page_describes_every_group_of_rows() -> None:
    text = PAGE.read_text()
    described = re.findall(r"^\| `([a-z-]+)` \|", text, flags=re.MULTILINE)
    assert described == groups()


def test_a_new_table_replaces_only_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "CHECKOUT", tmp_path)
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text(PAGE.read_text())
    for table in ("| one |", "| two |"):
        build._update(table)
        before, _, rest = PAGE.read_text().partition(build.START)
        after = rest.partition(build.END)[2]
        assert page.read_text() == f"{before}{build.START}\n{table}\n{build.END}{after}"


def test_every_list_is_pinned_and_holds_the_stack_that_is_spliced() -> None:
    lines = [line for path in (*workshop.LISTS, workshop.BENTO_LIST) for line in workshop.pinned(path)]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)
    listed = {line.partition("==")[0] for path in workshop.LISTS for line in workshop.pinned(path)}
    assert set(splice.STACK) <= listed


def test_a_change_is_one_line_and_a_new_one_each_time(tmp_path: Path) -> None:
    model = tmp_path / "model.joblib"
    model.write_bytes(b"model")
    project = workshop.project(tmp_path / "project", model, name="other")
    assert 'name = "other"' in (project / "intermodal.toml").read_text()
    seen = [(project / "predictor.py").read_text()]
    for revision in (5, 6):
        workshop.change_line(project, revision)
        seen.append((project / "predictor.py").read_text())
        differing = [
            pair for pair in zip(seen[-2].splitlines(), seen[-1].splitlines(), strict=True) if len(set(pair)) > 1
        ]
        assert len(differing) == 1


@pytest.mark.parametrize(("value", "most", "verdict"), [(1.0, 2.0, "holds"), (3.0, 2.0, "50 % over"), (3.0, 0.0, "")])
def test_a_row_says_whether_its_limit_holds(value: float, most: float, verdict: str) -> None:
    assert rows.Row("row", "ours", value=value, most=most).verdict == verdict


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        measure.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_wheels_are_found_by_name_and_version(tmp_path: Path) -> None:
    for name in ("python_dateutil-4.0.0-py3-none-any.whl", "python_dateutil-4.0.0.1-py3-none-any.whl"):
        (tmp_path / name).touch()
    found = workshop.wheel_of(tmp_path, "python-dateutil==4.0.0")
    assert found.name == "python_dateutil-4.0.0-py3-none-any.whl"
