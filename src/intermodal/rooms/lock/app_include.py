"""The files that `include` names: single files, folders, and glob patterns.

Takes the patterns of the project file; hands on (path in /app, file) pairs.

Rules, in order:
1. A pattern is relative and stays below the root; whatever it finds must lie below the root when links are
   followed.
2. What is named without wildcards beats `.gitignore`: a file always, a folder with all in it when the folder
   itself is ignored. Inside other folders, and for wildcards, `.gitignore` holds.
3. Caches, version control, environments and files that hold secrets by their name are left out of folders and
   wildcards; a secret that is named itself is an error.
4. A pattern that finds nothing is an error.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from intermodal.errors import ProjectError, SecretFoundError, UnsafePathError
from intermodal.rooms.lock.app_denied import needless_name, secret_name
from intermodal.rooms.lock.app_ignore import Ignore

MAX_FILES = 100_000


class Include:
    """Finds included files below one root; `looked` holds every place that decided what was found."""

    def __init__(self, root: Path, ignore: Ignore, apart: Collection[Path]) -> None:
        """`apart`: files and folders that stand elsewhere in the image (the artifact, the lock) or
        nowhere.
        """
        self.root = root
        self.looked: set[Path] = set()
        self.left_out: list[str] = []  # secrets by name, met in folders and wildcards
        self._ignore = ignore
        self._apart = {path.resolve() for path in apart}

    def find(self, pattern: str) -> dict[str, Path]:
        """Path in /app and file of everything that `pattern` names.

        Raises:
            ProjectError: nothing is there.
            UnsafePathError: the pattern or a link leads out of the project.
            SecretFoundError: the pattern names a file that holds secrets.
        """
        clean = _clean(pattern)
        found = self._glob(clean) if _is_wild(clean) else self._named(clean, pattern)
        if not found:
            raise ProjectError(
                f"include {pattern!r} names nothing",
                found=f"no such file or folder in {self.root}, or nothing in it that may be included",
                next="correct it under [model], or remove it",
            )
        return found

    def _named(self, path: str, pattern: str) -> dict[str, Path]:
        place = self.root / path if path else self.root
        self.looked.add(place)
        if place.is_dir():
            own_rules = bool(path) and self._ignore.ignored(path, folder=True)
            return dict(self._walk(place, path, respect=not own_rules))
        if why := secret_name(path):
            raise SecretFoundError(
                f"include {pattern!r} would put a secret into the image",
                found=why,
                next="remove it from include and name it under [secrets]: it is then delivered at run time",
            )
        return {path: self.inside(place, path)} if place.is_file() else {}

    def _glob(self, pattern: str) -> dict[str, Path]:
        """Everything that the pattern matches, and all that is in folders that it matches."""
        wanted = pattern.split("/")
        fixed = next(i for i, part in enumerate(wanted) if _is_wild(part))
        start = "/".join(wanted[:fixed])
        place = self.root / start if start else self.root
        self.looked.add(place)
        if not place.is_dir():
            return {}
        walked = self._walk(place, start, respect=True)
        return {path: file for path, file in walked if _matches(path.split("/"), wanted)}

    def _walk(
        self, folder: Path, path: str, *, respect: bool, above: tuple[str, ...] = ()
    ) -> Iterator[tuple[str, Path]]:
        """Every file below a folder, sorted."""
        real = os.path.realpath(folder)
        if real in above:
            raise UnsafePathError("include meets a folder that contains itself", found=path, next="remove the link")
        self.inside(folder, path)
        self.looked.add(folder)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            below = f"{path}/{entry.name}" if path else entry.name
            is_folder = entry.is_dir()
            if self._refused(below, folder=is_folder, respect=respect) or Path(entry.path).resolve() in self._apart:
                continue
            if is_folder:
                if not (Path(entry.path) / "pyvenv.cfg").exists():
                    yield from self._walk(Path(entry.path), below, respect=respect, above=(*above, real))
            elif entry.is_file():
                yield below, self.inside(Path(entry.path), below)
            elif entry.is_symlink():
                raise UnsafePathError(
                    f"{below} is a link to nothing", found=str(Path(entry.path).readlink()), next="remove it"
                )

    def _refused(self, path: str, *, folder: bool, respect: bool) -> bool:
        if needless_name(path):
            return True
        if secret_name(path + "/x" if folder else path):
            self.left_out.append(path)
            return True
        return respect and self._ignore.ignored(path, folder=folder)

    def inside(self, place: Path, path: str) -> Path:
        """The file itself, once it is sure that it lies below the root with all links followed.

        Raises:
            UnsafePathError: a link leads out.
            SecretFoundError: it is, or points at, a file that holds secrets by its name.
        """
        real = place.resolve()
        if real != self.root and self.root not in real.parents:
            raise UnsafePathError(
                f"{path} leads out of the project",
                found=f"a link to {real}",
                next="copy what it points at into the project",
            )
        if real.is_file() and (why := secret_name(real.relative_to(self.root).as_posix())):
            raise SecretFoundError(
                f"{path} would put a secret into the image",
                found=why,
                next="read it at run time from what [secrets] delivers",
            )
        return place


def _is_wild(text: str) -> bool:
    return any(character in text for character in "*?[")


def _matches(path: list[str], pattern: list[str]) -> bool:
    """Whether the pattern matches a path or a folder above it; `**` stands for any number of folders.

    >>> _matches(["a", "b", "c.csv"], ["**", "*.csv"]), _matches(["a", "b"], ["?"]), _matches(["a"], ["a", "*"])
    (True, True, False)
    """
    if not pattern:
        return True
    if not path:
        return False
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _clean(pattern: str) -> str:
    """The pattern without "./" and doubled slashes.

    Raises:
        UnsafePathError: absolute, or it climbs.
    """
    parts = [part for part in PurePosixPath(pattern).parts if part != "."]
    if pattern.startswith("/") or ".." in parts or "\0" in pattern or "\\" in pattern:
        raise UnsafePathError(
            f"include {pattern!r} leads out of the project",
            found="an absolute path, or one with '..' or a backslash",
            next="name files below the project's folder",
        )
    return "/".join(parts)
