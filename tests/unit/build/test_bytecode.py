"""Byte code compiled over the real protocol, by the interpreter that runs the tests (the image's own is in e2e)."""

import importlib.util
import marshal
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import CodeType

import pytest
from msgspec.structs import replace
from support.envs import CACHE
from support.hosts import empty_host

from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.rooms.build import bytecode
from intermodal.rooms.build.bytecode import ORDER_VARIABLE, Compiler, pyc_path
from intermodal.rooms.build.wheels.archive import Wheel

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
STDLIB = Path(sysconfig.get_paths()["stdlib"])
SOURCES = [(f"usr/lib/x/{path.name}", path.read_bytes()) for path in sorted((STDLIB / "json").glob("*.py"))]
SOURCES += [(f"usr/lib/y/{path.name}", path.read_bytes()) for path in sorted((STDLIB / "asyncio").glob("*.py"))]


class Heard(Events):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


class Here(Compiler):
    """A compiler whose base is this machine."""

    def _is_confined(self) -> bool:
        return False

    def _loader(self) -> list[str]:
        return [sys.executable]


def compiled(
    tmp_path: Path, items: list[tuple[str, bytes]], *, cores: int = 2, seed: str = "", events: Events | None = None
) -> dict[str, bytes | None]:
    host = empty_host(tmp_path, {ORDER_VARIABLE: seed} if seed else {})
    host = replace(host, cores=cores)
    with Here(lambda: Path("/"), PYTHON, host, events or Heard()) as compiler:
        return dict(compiler.compile(items))


def test_a_pyc_is_unchecked_hash_and_carries_the_path_in_the_image(tmp_path: Path) -> None:
    source = b"def f(x):\n    return x + 1\n"
    content = compiled(tmp_path, [("app/predictor.py", source)])["app/predictor.py"]
    assert content is not None
    assert content[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(content[4:8], "little") == 1, "hash based, not checked against the source"
    assert content[8:16] == importlib.util.source_hash(source)
    code = marshal.loads(content[16:])
    assert isinstance(code, CodeType) and code.co_filename == "/app/predictor.py"
    names: dict[str, object] = {}
    exec(code, names)
    assert names["f"](2) == 3  # type: ignore[operator]


def test_python_imports_what_was_compiled_without_its_source(tmp_path: Path) -> None:
    content = compiled(tmp_path, [("mod.py", b"VALUE = 'from byte code'\n")])["mod.py"]
    assert content is not None
    cached = tmp_path / "site" / pyc_path("mod.py", PYTHON).lstrip("/")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    (tmp_path / "site" / "mod.py").write_text("VALUE = 'from another source'\n")
    code = "import mod; print(mod.VALUE, mod.__cached__)"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == ["from", "byte", "code", str(cached)]


def test_what_is_not_python_has_no_byte_code_and_stops_nothing(tmp_path: Path) -> None:
    items = [
        ("a.py", b"print 'python 2'\n"),
        ("b.py", b"{% if template %}\n"),
        ("c.py", b"x = 1\0\n"),
        ("d.py", b"# -*- coding: no-such-codec -*-\n"),
        ("e.py", b"\xff\xfe broken"),
        ("f.py", b"(" * 10_000),
        ("g.py", b"# coding: latin-1\nNAME = '\xe9'\n"),
        ("h.py", b""),
        ("i.py", b"import warnings\nx = '\\d'\nassert (1, 'always')\n"),
    ]
    found = compiled(tmp_path, items)
    assert [path for path, content in found.items() if content is None] == [f"{c}.py" for c in "abcdef"]


def test_order_and_number_of_processes_change_nothing(tmp_path: Path) -> None:
    heard = Heard()
    straight = compiled(tmp_path, SOURCES, cores=1)
    shuffled = compiled(tmp_path, SOURCES, cores=3, seed="7", events=heard)
    assert list(shuffled) != list(straight) and shuffled == straight
    assert "shuffled" in heard.notices[0] and "seed 7" in heard.notices[0]
    assert next(iter(shuffled)).rpartition("/")[2] in heard.notices[0]
    assert compiled(tmp_path, SOURCES[::-1], cores=2) == straight


@pytest.mark.network
@pytest.mark.skipif(PYTHON != "3.11", reason="the example is of 3.11")
def test_what_the_process_did_before_shows_in_plain_marshal_but_not_in_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CACHE / "wheels-narwhals"
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "narwhals==2.29.0"]
        subprocess.run(pip, check=True, env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")})
    with Wheel(next(folder.glob("*.whl"))) as wheel:
        member = wheel.members["narwhals/_pandas_like/expr.py"]
        items = [("x/expr.py", member.read())]
    ours = bytecode._PROGRAM
    plain = ours.replace("body = canonical(code)", "body = marshal.dumps(code)")
    busy = "import json, decimal, logging, argparse, unittest, asyncio\n"

    def content(program: str) -> bytes | None:
        monkeypatch.setattr(bytecode, "_PROGRAM", program)
        return compiled(tmp_path, items)["x/expr.py"]

    assert content(plain) != content(busy + plain), "the trap exists"
    assert content(ours) == content(busy + ours)


def test_a_compiler_that_dies_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytecode, "_PROGRAM", "import sys; sys.stdin.buffer.read(8); sys.exit(9)")
    with pytest.raises(EngineError) as caught:
        compiled(tmp_path, [("app/a.py", b"x = 1\n")])
    assert "app/a.py" in caught.value.message and caught.value.exit_code == 3


def test_an_interpreter_that_is_not_there_is_an_engine_error(tmp_path: Path) -> None:
    class Missing(Here):
        def _loader(self) -> list[str]:
            return [str(tmp_path / "nowhere" / "python3.11")]

    with (
        pytest.raises(EngineError, match="cannot start"),
        Missing(lambda: tmp_path, PYTHON, empty_host(tmp_path)) as compiler,
    ):
        list(compiler.compile([("a.py", b"")]))


def test_nothing_is_unpacked_or_started_until_something_is_compiled(tmp_path: Path) -> None:
    def unpack() -> Path:
        raise AssertionError("unpacked for nothing")

    with Compiler(unpack, PYTHON, empty_host(tmp_path)) as compiler:
        assert list(compiler.compile([])) == []


def test_no_process_outlives_the_block(tmp_path: Path) -> None:
    with Here(lambda: Path("/"), PYTHON, empty_host(tmp_path)) as compiler:
        list(compiler.compile(SOURCES))
        processes = list(compiler._processes)
        assert processes and all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)


def test_strangers_python_runs_confined_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base of signed packages may run without walls where the host permits none; a registry's never."""
    monkeypatch.setattr("intermodal.engine.confine.available", lambda host: "user namespaces are off")
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *words, **more: started.append(words))
    compiler = Compiler(lambda: tmp_path, PYTHON, empty_host(tmp_path), interpreter="/usr/bin/python3", signed=False)
    with compiler, pytest.raises(EngineError, match="must be confined") as caught:
        dict(compiler.compile([("a.py", b"")]))
    assert started == [] and 'bytecode = "none"' in caught.value.next[0]


def test_the_way_around_slices_changes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 has slices as constants; taken on any Python, that way gives code that is equal."""
    before = compiled(tmp_path, SOURCES)
    program = bytecode._PROGRAM.replace("if sys.version_info >= (3, 14)", "if True")
    assert program != bytecode._PROGRAM
    monkeypatch.setattr(bytecode, "_PROGRAM", program)
    after = compiled(tmp_path, SOURCES)
    assert after.keys() == before.keys()
    for path, content in after.items():
        other = before[path]
        assert content is not None and other is not None
        assert marshal.loads(content[16:]) == marshal.loads(other[16:])
