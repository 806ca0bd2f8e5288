"""The command: so many minutes or runs of one reader or all of them; what is found is kept and told.

Exit status 1 when something was found; each finding lies in `--out` as the bytes that show it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS)]

from .campaign import MEMORY, by_structure, corpus_of  # noqa: E402
from .seeds import write_seeds  # noqa: E402
from .targets import READERS  # noqa: E402

ATHERIS = "atheris==3.0.0"


def main(arguments: list[str]) -> int:
    """The exit status of `python -m tests.fuzz ARGUMENTS`."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--reader", choices=[*READERS, "all"], default="all")
    parser.add_argument("--minutes", type=float, default=0.0, help="shared by the readers")
    parser.add_argument("--runs", type=int, default=0, help="of each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["auto", "atheris", "structure"], default="auto")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "intermodal-fuzz")
    parser.add_argument("--seeds", action="store_true", help="write the seeds of the corpus anew, and nothing else")
    options = parser.parse_args(arguments)
    if options.seeds:
        print(f"{write_seeds()} seeds")
        return 0
    readers = list(READERS) if options.reader == "all" else [options.reader]
    runs = options.runs or (0 if options.minutes else 1000)
    seconds = options.minutes * 60 / len(readers)
    python = _atheris_python() if options.engine != "structure" and seconds else None
    if options.engine == "atheris" and python is None:
        print("atheris does not install here", file=sys.stderr)
        return 3
    options.out.mkdir(parents=True, exist_ok=True)
    found = 0
    for reader in readers:
        if python is not None:
            found += _apart(python, reader, seconds, options.out)
        else:
            print(f"{reader}: {len(corpus_of(reader))} seeds, by structure", flush=True)
            found += by_structure(reader, runs=runs, seconds=seconds, seed=options.seed, out=options.out)
    return int(found > 0)


def _atheris_python() -> str | None:
    """An interpreter of this version that has atheris; None where it does not install."""
    if importlib.util.find_spec("atheris"):
        return sys.executable
    from support.envs import training_python

    try:
        return str(training_python(ATHERIS))
    except subprocess.CalledProcessError:
        return None


def _apart(python: str, reader: str, seconds: float, out: Path) -> int:
    """How many findings; in a process of its own, because libFuzzer ends the one it runs in."""
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS), str(TESTS.parent / "src"), site)),
    }
    for old in out.glob(f"{reader}-*.txt"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="im-fuzz-", dir=MEMORY) as folder:
        words = [python, "-m", "tests.fuzz.coverage_guided", reader, str(seconds), str(out), folder]
        done = subprocess.run(words, cwd=TESTS.parent, env=environment, check=False).returncode
    return len(list(out.glob(f"{reader}-*.txt"))) or abs(done)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
