"""Every reader survives its seeds and a thousand mutations of them; the watch over it does see what it looks for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
RUNS = 1200

# Each does one thing that no reader may do; `home` is the folder that may be written, `away` another one.
FORBIDDEN = {
    "memory": "bytearray(b'x') * (40 << 20)",
    "no memory": "bytearray(1 << 40)",
    "time": "while True: pass",
    "a file outside": "open(away / 'x', 'w')",
    "a file outside, by descriptor": "os.open(away / 'x', os.O_WRONLY | os.O_CREAT)",
    "a file through a link": "os.symlink(away, home / 'l'); open(home / 'l' / 'x', 'w')",
    "a file above": "open(home / '..' / 'x', 'w')",
    "a folder outside": "os.mkdir(away / 'd')",
    "a hard link from outside": "os.link(away / 'kept', home / 'h')",
    "a move to outside": "open(home / 'a', 'w').close(); os.rename(home / 'a', away / 'a')",
    "a removal outside": "os.remove(away / 'kept')",
    "a removal by descriptor": "os.remove('kept', dir_fd=folder)",
    "a mode outside": "os.chmod(away / 'kept', 0o600)",
    "an import": "import colorsys",
    "code": "exec('1')",
    "an expression": "eval('1 + 1')",
    "a pickle": "pickle.loads(b'cos\\ngetcwd\\n.')",
    "byte code": "marshal.loads(marshal.dumps(1))",
    "a process": "subprocess.run(['true'])",
    "a shell": "os.system('true')",
    "a socket": "socket.socket()",
    "a library": "ctypes.CDLL(None)",
}
ALLOWED = {
    "a file": "open(home / 'a', 'w').write('x')",
    "folders and links": "os.mkdir(home / 'd'); os.symlink('/etc', home / 'd' / 'l'); os.remove(home / 'd' / 'l')",
    "a tree removed": "os.mkdir(home / 't'); os.mkdir(home / 't' / 'u'); shutil.rmtree(home / 't')",
    "reading elsewhere": "open(away / 'kept').read()",
    "an error": "int('x')",
}
WATCH = """
import ctypes, json, marshal, os, pickle, shutil, socket, subprocess, sys, types
from pathlib import Path
from tests.fuzz import guard
from tests.fuzz.campaign import by_structure
from tests.fuzz.targets import READERS
guard.MEMORY_BYTES, guard.CPU_S = 32 << 20, 0.5
root = Path(sys.argv[1])
home, away = root / "home", root / "away"
home.mkdir(), away.mkdir()
folder, seen = os.open(away, os.O_RDONLY), {}
for name, text in json.load(sys.stdin).items():
    (away / "kept").write_text("kept")
    function = types.FunctionType(compile(text, name, "exec"), globals())
    try:
        with guard.GUARD.watching(home):
            function()
        seen[name] = ""
    except guard.Violation as error:
        seen[name] = str(error)
    except ValueError:
        seen[name] = ""
guard.MEMORY_BYTES, guard.CPU_S = 512 << 20, 20
def broken(data, folder):
    if b"d/l" not in data:
        raise KeyError("planted")
    return True
READERS["tar"] = broken
seen["planted"] = str(by_structure("tar", runs=50, seconds=0, seed=1, out=root / "out"))
print(json.dumps(seen))
"""


def python(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """This interpreter, from the checkout; the watch and its limits stay in that process."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "tests")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=CHECKOUT,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the watch said about each act."""
    root = tmp_path_factory.mktemp("watched")
    done = python("-c", WATCH, str(root), given=json.dumps(FORBIDDEN | ALLOWED))
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("act", FORBIDDEN)
def test_the_watch_sees_what_no_reader_may_do(watched: dict[str, str], act: str) -> None:
    assert watched[act]


@pytest.mark.parametrize("act", ALLOWED)
def test_the_watch_lets_a_reader_work(watched: dict[str, str], act: str) -> None:
    assert watched[act] == ""


def test_a_planted_fault_is_found(watched: dict[str, str]) -> None:
    assert watched["planted"] == "1"


@pytest.mark.parametrize("reader", ["zip", "tar", "ar", "pickle", "connection", "body"])
def test_a_reader_survives(reader: str, tmp_path: Path) -> None:
    words = ("--reader", reader, "--runs", str(RUNS), "--engine", "structure", "--out", str(tmp_path))
    done = python("-m", "tests.fuzz", *words)
    assert done.returncode == 0, done.stderr
    told = re.search(rf"{reader}: (\d+) executions, (\d+) of them taken, 0 findings", done.stdout)
    assert told is not None, done.stdout
    assert int(told[1]) > RUNS
    assert int(told[2]) > 0, "no input went all the way through: the seeds are not what they should be"
