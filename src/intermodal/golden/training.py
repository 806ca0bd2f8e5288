"""The interpreter a model was trained with: found among the active environments, and asked what it has installed.

Takes the host and what the model needs, hands on an `Interpreter`; and says where its versions contradict the model.

Rules, in order:
1. An interpreter that was named is taken as it is.
2. Else the active environment: `VIRTUAL_ENV`, `CONDA_PREFIX`, then `python3` and `python` on `PATH`; the first that
   has what the model needs. Never the environment this tool runs in, unless it was named: a model must not be proven
   by whatever the tool happened to bring along.
3. Interpreters are asked in isolated mode (`-I`), so no folder or variable changes the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from intermodal.errors import ContradictionError, InputError
from intermodal.host import Host

_PROBE = """
import importlib.metadata, json, platform, sys
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps({"python": platform.python_version(), "prefix": sys.prefix, "versions": versions}))
"""
_PROBE_S = 60.0


class Interpreter(Struct, frozen=True):
    """A Python and those of the asked-for distributions that it has."""

    path: Path
    python: str  # "3.11.7"
    prefix: Path
    versions: Mapping[str, str]


class Stamp(Protocol):
    """A version that the artifact states; `rooms.inspect.card.Evidence` is one."""

    @property
    def version(self) -> str:
        """The version, or only its beginning or bound when not `exact`."""

    @property
    def where(self) -> str:
        """Where the artifact says so."""

    @property
    def exact(self) -> bool:
        """Whether only this very version agrees."""


def probe(path: Path, names: Sequence[str]) -> Interpreter | None:
    """What the interpreter at `path` has of `names`; None when it is no working Python."""
    try:
        done = subprocess.run(
            [str(path), "-I", "-c", _PROBE, *names], capture_output=True, timeout=_PROBE_S, check=True, text=True
        )
        answer = json.loads(done.stdout)
        return Interpreter(path, answer["python"], Path(answer["prefix"]), answer["versions"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def find_interpreter(named: Path | None, needed: Sequence[str], also: Sequence[str], host: Host) -> Interpreter:
    """The interpreter to record in.

    Args:
        named: the one the user chose, or None to search.
        needed: distributions it must have.
        also: further distributions whose versions are asked for.
        host: where the active environments are read from.

    Raises:
        InputError: the named one does not work, or none has what is needed; `.found` lists who lacks what.
    """
    names = sorted({*needed, *also})
    if named is not None:
        return _named(named, needed, names)
    seen: list[str] = []
    for path in _candidates(host):
        found = probe(path, names)
        if found is None:
            seen.append(f"{path}: does not run")
            continue
        lacking = [name for name in needed if name not in found.versions]
        if found.prefix == Path(sys.prefix):
            has = ", ".join(f"{name} {version}" for name, version in found.versions.items()) or "nothing needed"
            seen.append(f"{path}: intermodal's own environment, not taken by itself (has {has})")
        elif lacking:
            seen.append(f"{path}: Python {found.python} without {', '.join(lacking)}")
        else:
            return found
    raise InputError(
        f"no active environment has {', '.join(needed) or 'a Python of its own'}",
        found=seen or "no VIRTUAL_ENV, no CONDA_PREFIX, no python3 on PATH",
        next=(
            "activate the environment the model was trained in, or name it: --python PATH",
            "or record what the image itself answers: --locked",
        ),
    )


def _named(path: Path, needed: Sequence[str], names: Sequence[str]) -> Interpreter:
    if path.is_dir() and (path / "bin" / "python").exists():
        path = path / "bin" / "python"
    found = probe(path, names)
    if found is None:
        raise InputError(
            f"--python {path} is no working Python",
            found=f"{path} does not run a script",
            next="give the interpreter itself, such as ~/train/bin/python",
        )
    lacking = [name for name in needed if name not in found.versions]
    if lacking:
        raise InputError(
            f"{path} cannot run the model",
            found=f"Python {found.python} without {', '.join(lacking)}",
            next="give the interpreter of the environment the model was trained in",
        )
    return found


def _candidates(host: Host) -> Iterator[Path]:
    environment = host.environment
    seen: set[Path] = set()
    folders = [Path(environment[name]) / "bin" for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if environment.get(name)]
    folders += [Path(part) for part in environment.get("PATH", "").split(os.pathsep) if part.startswith("/")]
    for folder in folders:
        for name in ("python3", "python"):
            path = folder / name
            if path not in seen and path.is_file() and os.access(path, os.X_OK):
                seen.add(path)
                yield path
                break  # python and python3 of one folder are the same


def refuse_contradictions(artifact: str, stamps: Mapping[str, Stamp], python: str, interpreter: Interpreter) -> None:
    """Return when the interpreter's versions are those the artifact states.

    Raises:
        ContradictionError: they are not, so nothing recorded there could be called "training".
    """
    found = []
    first = ""
    for name, stamp in stamps.items():
        have = interpreter.versions.get(name)
        if have is not None and not _agrees(have, stamp):
            first = first or f"{artifact} was saved by {name} {stamp.version}, but the environment has {have}"
            found.append(f"{stamp.where or f'{name} {stamp.version}'}; {interpreter.path} has {name} {have}")
    if python and not interpreter.python.startswith(f"{python}."):
        first = first or f"{artifact} was saved by Python {python}, but the environment has {interpreter.python}"
        found.append(f"{interpreter.path} is Python {interpreter.python}")
    if found:
        raise ContradictionError(
            first,
            found=found,
            next=(
                "name the environment it was trained in: --python PATH",
                "or record what the image itself answers: --locked",
            ),
        )


def _agrees(have: str, stamp: Stamp) -> bool:
    if stamp.exact:
        return have == stamp.version or have.partition("+")[0] == stamp.version
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(stamp.version).contains(have, prereleases=True)
    except InvalidSpecifier:
        return have.split(".")[0] == stamp.version.split(".")[0]
