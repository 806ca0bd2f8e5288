"""The command line: its words, its statuses, its one JSON document, and what it does not import."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from support.cli import environment, intermodal
from support.envs import CHECKOUT

from intermodal.cli.app import COMMANDS, root
from intermodal.cli.reference import render

HEAVY = {
    "rich",
    "urllib3",
    "ssl",
    "http",
    "asyncio",
    "email",
    "cryptography",
    "pysequoia",
    "packaging",
    "isal",
}


def imported_after(*arguments: str) -> set[str]:
    """Top-level names and our modules that `intermodal ARGUMENTS` has imported at its end."""
    code = (
        "import sys\nfrom intermodal.cli.app import main\ncode = main(sys.argv[1:])\n"
        "print('\\n'.join(['MODULES', *sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.partition("MODULES\n")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ship", "--help"], ["record", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    modules = imported_after(*arguments)
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert not {
        name for name in modules if name.startswith(("intermodal.rooms", "intermodal.project", "intermodal.oci."))
    }


def test_help_of_the_whole_imports_no_command() -> None:
    modules = imported_after("--help")
    assert not {f"intermodal.cli.{name}" for name in COMMANDS} & modules
    assert "msgspec" not in modules


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_is_true(name: str) -> None:
    context = click.Context(root, info_name="intermodal")
    command = root.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert command.help is not None
    assert command.help.partition("\n")[0] == COMMANDS[name]
    assert "Example:" in (command.epilog or "")
    assert f"intermodal {name}" in (command.epilog or "")
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "--quiet", "--debug"} <= flags


def test_every_command_file_is_in_the_table() -> None:
    folder = CHECKOUT / "src/intermodal/cli"
    have = {path.stem for path in folder.glob("*.py") if re.search(r"^def command\(\s*session", path.read_text(), re.M)}
    assert have == {name.replace("-", "_") for name in COMMANDS}


def test_the_reference_has_not_drifted() -> None:
    page = (CHECKOUT / "docs/reference/commands.md").read_text()
    assert page == render(), "python -m intermodal.cli.reference > docs/reference/commands.md"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shp", "x"], ["no command is called 'shp'", "ship"]),
        (["ship"], ["missing argument 'PATH'", "usage: intermodal ship"]),
        (["ship", ".", "--fast"], ["--fast", "intermodal ship --help"]),
        (["run", "x", "--port", "0"], ["--port", "1"]),
        (["check", "x", "--engine", "magic"], ["--engine", "sandbox"]),
        (["build", ".", "-o", "nonsense"], ["oci:DIR", "docker-archive:FILE"]),
        (["lock", ".", "--check", "--upgrade"], ["--check writes nothing"]),
    ],
)
def test_wrong_usage_is_told_in_the_common_form(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    told = intermodal(*arguments, home=tmp_path)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("error: ")
    assert "\n  found   " in told.err
    assert "\n  next    " in told.err
    for word in words:
        assert word in told.err

    document = intermodal(*arguments, "--json", home=tmp_path)
    assert (document.code, document.err) == (2, "")
    assert document.json["exit_code"] == 2
    assert set(document.json) == {"error", "kind", "found", "next", "exit_code"}


def test_nothing_to_do_shows_help(tmp_path: Path) -> None:
    told = intermodal(home=tmp_path)
    assert (told.code, told.out) == (2, "")
    assert "The corridor:" in told.err


def test_inspect_for_people_and_machines(tmp_path: Path) -> None:
    told = intermodal("inspect", CHECKOUT / "examples/passengers", home=tmp_path)
    assert told.code == 0
    for word in ("scikit-learn 1.9.1", "remark  BYTES [any]", "label", "pandas", "safe", "next"):
        assert word in told.out
    document = intermodal("inspect", CHECKOUT / "examples/passengers", "--json", "-q", home=tmp_path)
    assert document.err == ""
    assert document.json["safe"] is True
    assert document.json["versions"]["scikit-learn"] == "1.9.1"
    assert document.json["warnings"] == []


def test_quiet_says_nothing_on_standard_error(tmp_path: Path) -> None:
    assert intermodal("inspect", CHECKOUT / "examples/digits", home=tmp_path).err != ""
    assert intermodal("inspect", CHECKOUT / "examples/digits", "-q", home=tmp_path).err == ""


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_an_unsafe_model_is_a_card_and_a_no(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Hostile()))
    told = intermodal("inspect", "m.pkl", home=tmp_path)
    assert told.code == 1
    assert "NO: opening it would run code" in told.out
    assert not (tmp_path / "owned").exists()


def test_notices_are_warnings_of_the_document(tmp_path: Path) -> None:
    (tmp_path / "predictor.py").write_text("class P:\n    def predict(self, x):\n        return x\n")
    (tmp_path / "intermodal.toml").write_text('[model]\npredictor = "predictor:P"\n[scan]\nfail_on = "low"\n')
    assert "note: not built yet, without effect: [scan]" in intermodal("inspect", ".", home=tmp_path, cwd=tmp_path).err
    document = intermodal("inspect", ".", "--json", home=tmp_path, cwd=tmp_path)
    assert document.json["warnings"] == ["not built yet, without effect: [scan]"]


def test_init_writes_what_load_reads_and_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes((CHECKOUT / "examples/digits/model.joblib").read_bytes())
    made = intermodal("init", "model.joblib", home=tmp_path, cwd=tmp_path)
    assert made.code == 0, made.err
    text = (tmp_path / "intermodal.toml").read_text()
    assert '"scikit-learn==1.9.1",  # _sklearn_version' in text
    assert '"numpy"' in text
    card = intermodal("inspect", tmp_path, "--json", home=tmp_path)
    assert card.json["safe"] is True

    again = intermodal("init", "model.joblib", home=tmp_path, cwd=tmp_path)
    assert again.code == 2
    assert "never overwritten" in again.err
    assert (tmp_path / "intermodal.toml").read_text() == text
    assert not list(tmp_path.glob(".*tmp"))


def test_commented_defaults_of_init_are_the_schema_s(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes((CHECKOUT / "examples/digits/model.joblib").read_bytes())
    assert intermodal("init", tmp_path, "--json", home=tmp_path).json["path"] == str(tmp_path / "intermodal.toml")
    lines = (tmp_path / "intermodal.toml").read_text().splitlines()
    opened = [line.removeprefix("# ") if " = " in line and not line.startswith("# What") else line for line in lines]
    kept = [line for line in opened if not line.startswith(("predictor", "include", "golden", "trust", "system"))]
    (tmp_path / "intermodal.toml").write_text("\n".join(kept))
    assert intermodal("inspect", tmp_path, home=tmp_path).code == 0, "every commented key must be a valid one"


def test_the_store_of_a_new_user(tmp_path: Path) -> None:
    assert "no images yet" in intermodal("images", home=tmp_path).out
    assert intermodal("images", "--json", home=tmp_path).json["images"] == []
    assert intermodal("prune", "--json", home=tmp_path, cache=tmp_path / "cache").json["freed_bytes"] == 0
    unknown = intermodal("check", "nothing:1", home=tmp_path)
    assert unknown.code == 2
    assert "nothing:1" in unknown.err


def test_an_error_nobody_foresaw(tmp_path: Path) -> None:
    """A data folder that cannot exist: told in the common form, never as a traceback, unless asked for."""
    (tmp_path / "file").touch()
    variables = {"XDG_DATA_HOME": str(tmp_path / "file")}
    told = intermodal("images", home=tmp_path, env=variables)
    assert told.code == 3
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err
    assert "Traceback" in intermodal("images", "--debug", home=tmp_path, env=variables).err


def test_internal_errors_are_called_so() -> None:
    from intermodal.cli.errors import _as_known

    known = _as_known(ZeroDivisionError("division by zero"))
    assert known.exit_code == 3
    assert known.message == "internal error: ZeroDivisionError: division by zero"
    assert "--debug" in known.next[0]
    assert "No space left" in str(_as_known(OSError(28, "No space left on device")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """A model read from a pipe that nobody fills: the command waits until it is interrupted."""
    os.mkfifo(tmp_path / "rows.json")
    (tmp_path / "model.joblib").write_bytes((CHECKOUT / "examples/digits/model.joblib").read_bytes())
    command = [sys.executable, "-m", "intermodal", "record", "model.joblib", "--inputs", "rows.json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    process.stderr.readline()  # "read model …": it is at work
    waiting = Path(f"/proc/{process.pid}/wchan")
    for _ in range(200):
        if "fifo" in waiting.read_text() or "wait_for_partner" in waiting.read_text():
            break
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == 130
    assert process.stderr.read().splitlines()[-2].startswith("interrupted: ")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m intermodal inspect {CHECKOUT}/examples/digits --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_documents_are_utf8_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "modèle"
    folder.mkdir()
    (folder / "m.joblib").write_bytes((CHECKOUT / "examples/digits/model.joblib").read_bytes())
    told = intermodal("inspect", folder / "m.joblib", "--json", home=tmp_path, env={"LC_ALL": "C.UTF-8"})
    assert json.loads(told.out)["path"].endswith("modèle/m.joblib")
