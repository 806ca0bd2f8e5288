"""Acceptance 1: `./dev ship examples/digits` as a new ordinary user, in a fresh checkout, with empty caches."""

from __future__ import annotations

import re
import shlex

import pytest
from support.newcomer import Newcomer

pytestmark = [pytest.mark.network, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.xdist_group("newcomer")]


def test_ship_twice(newcomer: Newcomer) -> None:
    first = newcomer.dev("ship", "examples/digits")
    assert first.code == 0, first.err
    for room in ("inspect", "lock", "build", "check"):
        assert re.search(rf"^\s*{room}\b", first.out, re.MULTILINE), first.out
    digest = re.search(r"sha256:[0-9a-f]{64}", first.out)
    assert digest
    assert "golden" in first.out
    assert "training" in first.out, "the report must say where the cases were recorded"
    assert re.search(r"next\W+intermodal run", first.out), "the next command to try is missing"

    second = newcomer.dev("ship", "examples/digits")
    assert second.code == 0, second.err
    assert second.out.startswith("nothing to do\n"), second.out
    assert digest.group() in second.out

    report = newcomer.dev("ship", "examples/digits", "--json")
    assert report.code == 0
    assert report.json["nothing_to_do"] is True
    assert report.json["check"]["passed"] is True
    assert report.json["check"]["golden"]["cases"] > 0
    assert report.json["check"]["golden"]["recorded_in"] == "training"


def test_readme_commands_work_as_written(newcomer: Newcomer) -> None:
    """Every command of the README's console blocks but the test run itself; servers are tested in test_run."""
    text = (newcomer.checkout / "README.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert commands[:2] == ["./dev ship examples/digits", "./dev test"], "the README opens with the two commands"
    for command in commands[:1] + commands[2:]:
        words = shlex.split(command, comments=True)
        if words[0] not in ("./dev", "intermodal") or words[1] == "run":
            continue
        result = newcomer.dev(*words[1:])
        assert result.code == 0, f"{command}\n{result.out}\n{result.err}"
