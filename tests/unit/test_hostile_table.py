"""The table of hostile input names tests and cases that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "architecture" / "hostile-input.md"
CELL = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`((?:,? ?\"[^\"]+\")*)")


def test_every_test_and_case_of_the_table_exists() -> None:
    named = CELL.findall(PAGE.read_text().split("## Fuzzing")[0])
    assert len(named) > 60
    for file, function, cases in named:
        text = (TESTS / file).read_text()
        assert not function or f"def {function}(" in text, f"{file}::{function}"
        for case in re.findall(r'"([^"]+)"', cases):
            assert f'"{case}": (' in text, f'{file} "{case}"'


def test_every_case_of_the_tables_of_cases_is_tried() -> None:
    for file in ("layers/test_hostile_layers.py", "wheels/test_hostile_wheels.py", "models/test_hostile_models.py"):
        text = (TESTS / "hostile" / file).read_text()
        assert 'parametrize("case", CASES' in text, file
