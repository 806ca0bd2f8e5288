"""The walls of the house: sizes of files and functions, sockets in their rooms, one place that prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Rooms that may open sockets; a new one is a decision, not an accident.
SOCKET_ROOMS = (
    "intermodal/fetch/",
    "intermodal/engine/",
    "intermodal/registry/",
    "intermodal/rooms/check/probe.py",
    "intermodal/rooms/check/load.py",
    "intermodal/rooms/deploy/envoy/",
    "intermodal/rooms/deploy/target",  # the interface and the folder of targets
    "intermodal/rooms/watch/",
    "intermodal_server/",
)
SOCKET_MODULES = {"socket", "http", "urllib3", "ssl", "asyncio", "socketserver", "selectors"}
# Clock and environment: host reads them, engines and the server's start-up need them.
CLOCK_ROOMS = ("intermodal/host/", "intermodal/engine/", "intermodal/rooms/deploy/clock.py", "intermodal_server/")


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_file_and_functions_fit_on_a_few_screens(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES, "split the file: it has more than one purpose"
    for function in _functions(ast.parse(text)):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{function.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_sockets_live_in_rooms_named_for_them(path: Path) -> None:
    if _name(path).startswith(SOCKET_ROOMS):
        return
    assert not _imported(ast.parse(path.read_text())) & SOCKET_MODULES


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_environment_and_clock_are_arguments(path: Path) -> None:
    if _name(path).startswith(CLOCK_ROOMS):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = f"{node.value.id}.{node.attr}"
            assert used not in {"os.environ", "os.getenv", "time.time", "datetime.now"}, f"line {node.lineno}: {used}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if _name(path).startswith(("intermodal/cli/", "intermodal/__main__.py", "intermodal_server/")):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "exit"}, f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert f"{node.value.id}.{node.attr}" not in {"sys.exit", "sys.stdout", "sys.stderr"}, f"line {node.lineno}"
