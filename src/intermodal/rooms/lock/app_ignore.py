"""What `.gitignore` files keep out.

Takes the project's root; answers for paths below it. Reads the `.gitignore` of every folder on the way, and
those above the root up to the repository's top, as git does; a repository's private excludes and a user's
global ones do not count, because another checkout would not have them.

Rules, in order: the last matching pattern of the deepest file decides; a file below an ignored folder is
ignored. `pathspec` is loaded only where a `.gitignore` exists.

Spec: gitignore(5), "Pattern format".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

NAME = ".gitignore"


class Ignore:
    """The ignore rules of a project; remembers every file it looked for in `looked`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.looked: set[Path] = set()
        self._specs: dict[Path, GitIgnoreSpec | None] = {}
        self._top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)

    def ignored(self, path: str, *, folder: bool = False) -> bool:
        """Whether git would leave out `path`, relative to the root; `folder` says what it is."""
        parts = path.split("/")
        for length in range(1, len(parts)):
            if self._judge(self.root.joinpath(*parts[:length]), folder=True):
                return True
        return self._judge(self.root / path, folder=folder)

    def _judge(self, path: Path, *, folder: bool) -> bool:
        """The verdict on one path alone."""
        for place in path.parents:
            spec = self._spec(place)
            if spec is not None:
                relative = path.relative_to(place).as_posix() + ("/" if folder else "")
                verdict = spec.check_file(relative).include
                if verdict is not None:
                    return verdict
            if place == self._top:
                break
        return False

    def _spec(self, folder: Path) -> GitIgnoreSpec | None:
        if folder not in self._specs:
            file = folder / NAME
            self.looked.add(file)
            self._specs[folder] = _read(file) if file.is_file() else None
        return self._specs[folder]


def _read(file: Path) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(file.read_text("utf-8", "replace").splitlines())
