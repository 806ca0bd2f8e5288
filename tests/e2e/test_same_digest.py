"""Acceptance 2: one project, one digest: whoever builds it, wherever, in whatever order byte code is compiled."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field

import pytest
from support.cli import Result, give
from support.newcomer import UID, Newcomer

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("newcomer")]


@dataclass(frozen=True)
class Circumstance:
    """How one build differs from the next; each has its own home, caches and store, all empty at the start."""

    folder: str = "digits"
    uid: int = UID
    umask: int = 0o022
    env: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()


CIRCUMSTANCES = {
    "plain": Circumstance(),
    "elsewhere": Circumstance(
        folder="a folder, çà et là",
        umask=0o077,
        env={"TZ": "Asia/Kathmandu", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": "1"},
    ),
    "another user on one core": Circumstance(
        folder="deep/er/down", uid=UID + 1, umask=0o002, env={"LC_ALL": "C"}, prefix=("taskset", "-c", "0")
    ),
    "shuffled": Circumstance(env={"INTERMODAL_COMPILE_ORDER": "7"}),
    "shuffled otherwise": Circumstance(env={"INTERMODAL_COMPILE_ORDER": "8", "PYTHONHASHSEED": "2"}),
}


def build(newcomer: Newcomer, name: str) -> Result:
    """Build the digits example in a fresh home under one circumstance."""
    circumstance = CIRCUMSTANCES[name]
    home = newcomer.folder / re.sub(r"\W", "", name)
    project = home / circumstance.folder
    project.parent.mkdir(parents=True)
    ignored = shutil.ignore_patterns("pylock.intermodal.toml", "__pycache__")
    shutil.copytree(newcomer.checkout / "examples/digits", project, ignore=ignored)
    if os.getuid() == 0:
        give(home, circumstance.uid)
    return newcomer.dev(
        "build",
        project,
        "--json",
        home=home,
        uid=circumstance.uid if os.getuid() == 0 else UID,
        cwd=home,
        env=circumstance.env,
        prefix=circumstance.prefix,
        umask=circumstance.umask,
    )


def test_one_digest(newcomer: Newcomer) -> None:
    assert newcomer.dev("--version").code == 0  # the environment is made once, by its owner
    results = {name: build(newcomer, name) for name in CIRCUMSTANCES}
    for name, result in results.items():
        assert result.code == 0, f"{name}: {result.err}"
    orders = [re.findall(r"shuffled.*", results[name].err) for name in ("shuffled", "shuffled otherwise")]
    assert all(orders), "the shuffled order was not taken"
    assert orders[0] != orders[1], "both runs compiled in the same order: nothing was proven"
    assert not re.findall(r"shuffled", results["plain"].err)
    layers = {name: [(la["title"], la["digest"]) for la in r.json["layers"]] for name, r in results.items()}
    for name in CIRCUMSTANCES:
        assert layers[name] == layers["plain"], name
        assert not any(la["reused"] for la in results[name].json["layers"]), f"{name} did not start from empty caches"
    assert len({r.json["digest"] for r in results.values()}) == 1
    assert len({r.json["lock_digest"] for r in results.values()}) == 1
