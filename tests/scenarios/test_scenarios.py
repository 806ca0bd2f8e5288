"""Scenarios: one file each, with a project's files, commands, and what they must say.

    -- NAME --              a file of the project, up to the next line of this form
    $ intermodal …          a command, run in the project's folder; the lines below are its output and its errors
    [2]                     its exit status, when it is not 0

`…` in an expected line stands for anything on that line, a line of `…` alone for any lines. `EXAMPLES` in a command is
the folder of examples. Commands come first, files follow.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.cli import intermodal
from support.envs import CHECKOUT

FOLDER = Path(__file__).parent


def parse(text: str) -> tuple[list[tuple[str, list[str], int]], dict[str, str]]:
    """Commands with expected lines and statuses, and files."""
    head, *parts = re.split(r"^-- (.+) --\n", text, flags=re.MULTILINE)
    files = dict(zip(parts[::2], parts[1::2], strict=True))
    commands = []
    for block in re.split(r"^\$ ", head, flags=re.MULTILINE)[1:]:
        command, *lines = block.rstrip("\n").splitlines()
        status = re.fullmatch(r"\[(\d+)\]", lines[-1]) if lines else None
        commands.append(
            (command, [line for line in lines[: -1 if status else None] if line], int(status[1]) if status else 0)
        )
    return commands, files


def pattern(lines: list[str]) -> str:
    """A regular expression for the whole of what was said."""
    wanted = [r"(?:.*\n)*" if line.strip() == "…" else re.escape(line).replace("…", ".*") + r" *\n" for line in lines]
    return "".join(wanted)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path, tmp_path: Path) -> None:
    commands, files = parse(path.read_text())
    assert commands, "a scenario without a command proves nothing"
    for name, text in files.items():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for command, lines, status in commands:
        words = shlex.split(command.replace("EXAMPLES", str(CHECKOUT / "examples")))
        assert words[0] == "intermodal"
        told = intermodal(*words[1:], home=tmp_path, cwd=tmp_path)
        said = "".join(f"{line}\n" for line in (told.out + told.err).splitlines() if line.strip())
        assert told.code == status, f"$ {command}\n{said}"
        assert re.fullmatch(pattern(lines), said), f"$ {command}\nexpected:\n" + "\n".join(lines) + f"\n\nsaid:\n{said}"
