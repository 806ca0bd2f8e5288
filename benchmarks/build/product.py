"""intermodal with a home of its own: every cold run gets a fresh one, every warm run the one it had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Run, run

OWN = ("PIP_", "UV_", "XDG_", "PYTHON", "BENTOML")


class Home:
    """A home folder with a store and caches; `index` is the only package index it knows."""

    def __init__(self, folder: Path, program: Path, index: str) -> None:
        self.folder = folder
        self.program = program
        self.index = index
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "cache").mkdir(parents=True, exist_ok=True)

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a command; nothing of this machine's pip or uv configuration."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        own = {"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder / "data")}
        own |= {"XDG_CACHE_HOME": str(self.folder / "cache"), "XDG_CONFIG_HOME": str(self.folder / "config")}
        return kept | own | {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.index} | more

    def run(self, *words: str | Path, **more: str) -> Run:
        """One command, timed from outside."""
        return run([self.program, *words], env=self.variables(**more), orphans=True)

    def image(self, project: Path) -> dict[str, Any]:
        """What `build --json` says."""
        document: dict[str, Any] = json.loads(self.run("build", project, "--json").out)
        return document

    def clone(self, folder: Path, *, keep: Callable[[dict[str, Any]], bool] | None = None) -> Home:
        """A copy by hard links (the program replaces files, it never changes one).

        Args:
            folder: where to; what is there goes.
            keep: which layers the copy still has; default: all. Without a layer, its blob and image are gone too.
        """
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["cp", "-al", self.folder, folder], check=True)
        copy = type(self)(folder, self.program, self.index)
        if keep is not None:
            copy._forget(keep)
        return copy

    def with_files_only(self, folder: Path) -> Home:
        """A home that has fetched every wheel and .deb, and made nothing of them."""
        shutil.rmtree(folder, ignore_errors=True)
        copy = type(self)(folder, self.program, self.index)
        (folder / "cache" / "intermodal").mkdir()
        files = Path("cache") / "intermodal" / "files"
        subprocess.run(["cp", "-al", self.folder / files, folder / files], check=True)
        return copy

    def _forget(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        cache = self.folder / "cache" / "intermodal"
        store = self.folder / "data" / "intermodal" / "store"
        kept: set[str] = set()
        for path in (cache / "layers").glob("*.json"):
            document = json.loads(path.read_bytes())
            if "diff_id" not in document:
                path.unlink()  # which paths the wheels of a layer brought
            elif keep(document):
                kept.add(document["digest"].partition(":")[2])
            else:
                path.unlink()
        for blob in (store / "blobs" / "sha256").iterdir():
            if blob.name not in kept:
                blob.unlink()
        (store / "index.json").unlink()
        (store / "oci-layout").unlink()
        shutil.rmtree(cache / "warm", ignore_errors=True)
