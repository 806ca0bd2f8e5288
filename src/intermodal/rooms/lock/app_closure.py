"""The local modules that a module needs, and what they in turn need: the import closure.

Takes the folders that modules may lie in and the names to start from; hands on files, what was looked for,
and the names that are not local. Sources are parsed, never executed.

Rules, in order:
1. A module is looked for as Python does: package folder, extension module, source file, namespace folder; the
   project's root first, then its `src`. Local modules win over everything else, because /app stands first.
2. A module brings the `__init__.py` of all packages above it; they are read for imports too.
3. `from a import b` takes `a.b` when that is a module.
4. Files of a `src` folder lie in /app without `src/`, so that the names they are imported by stay right.
"""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec import Struct, field

from intermodal.errors import ProjectError
from intermodal.rooms.lock.app_imports import Import, imports_of

MAX_SOURCE_BYTES = 16 << 20


class Missing(Struct, frozen=True):
    """An import that nothing local answers."""

    module: str
    importer: str  # path of the file that wants it
    line: int
    optional: bool


class Closure(Struct):
    """What is known so far; `follow` adds to it."""

    roots: tuple[Path, ...]
    files: dict[str, Path] = field(default_factory=dict)  # path in /app -> file
    looked: set[Path] = field(default_factory=set)  # every place a module was looked for, there or not
    missing: list[Missing] = field(default_factory=list)
    _done: dict[str, bool] = field(default_factory=dict)  # module -> found here
    _native: dict[Path, dict[str, str]] = field(default_factory=dict)  # folder -> stem -> compiled module
    _unread: list[tuple[str, Path, str]] = field(default_factory=list)  # path, file, package of files not yet parsed

    def follow(self, module: str, importer: str = "", line: int = 0, *, optional: bool = False) -> bool:
        """Add a module with all it needs; whether it is local.

        A module whose first package is local but which itself is not there counts as missing.
        """
        found = self._want(module, importer, line, optional=optional)
        self._read_all()
        return found

    def follow_name(self, name: str) -> bool:
        """Add the module that a dotted name such as "mylib.transforms.Log" lives in; whether one is local."""
        parts = name.split(".")
        found = any(self._add(".".join(parts[:length])) for length in range(len(parts), 0, -1))
        self._read_all()
        return found

    def _want(self, module: str, importer: str, line: int, *, optional: bool) -> bool:
        found = self._add(module)
        if not found and not self._is_known(module):
            self.missing.append(Missing(module, importer, line, optional))
        return found

    def _read_all(self) -> None:
        # A list, not recursion: chains of imports may be longer than the stack is deep.
        while self._unread:
            path, source, package = self._unread.pop()
            for one in imports_of(_read(source, path), path):
                self._follow_import(one, path, package)

    def _is_known(self, module: str) -> bool:
        top = module.partition(".")[0]
        return top in sys.stdlib_module_names and not self._done.get(top, False)

    def _add(self, module: str) -> bool:
        if not all(part.isidentifier() for part in module.split(".")):
            return False
        if (known := self._done.get(module)) is not None:
            return known
        self._done[module] = False
        parent = module.rpartition(".")[0]
        if parent and not self._add(parent):
            return False
        self._done[module] = found = self._locate(module)
        return found

    def _locate(self, module: str) -> bool:
        relative = module.replace(".", "/")
        for root in self.roots:
            folder, single, package = root / relative, root / f"{relative}.py", root / relative / "__init__.py"
            self.looked.update((package, single))
            if package.is_file():
                self._take(f"{relative}/__init__.py", package, module)
                return True
            native = self._extension(folder)
            if native is not None:
                self.files[f"{relative.rpartition('/')[0]}/{native.name}".lstrip("/")] = native
                return True
            if single.is_file():
                self._take(f"{relative}.py", single, module.rpartition(".")[0])
                return True
        for root in self.roots:
            folder = root / relative
            self.looked.add(folder)
            if folder.is_dir() and (any(folder.glob("*.py")) or any(folder.glob("*/*.py"))):
                return True  # a namespace package: nothing of its own
        return False

    def _extension(self, stem: Path) -> Path | None:
        """The compiled module of this name, when there is one; each folder is listed once."""
        folder = stem.parent
        if folder not in self._native:
            names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            self._native[folder] = {name.split(".")[0]: name for name in reversed(names) if name.endswith(".so")}
        name = self._native[folder].get(stem.name)
        return folder / name if name else None

    def _take(self, path: str, source: Path, package: str) -> None:
        self.files[path] = source
        self._unread.append((path, source, package))

    def _follow_import(self, one: Import, importer: str, package: str) -> None:
        base = one.module
        if one.level:
            parts = package.split(".") if package else []
            if one.level - 1 >= max(len(parts), 1):
                return  # climbs out of its package: fails at run time, as it would at home
            above = parts[: len(parts) - (one.level - 1)]
            base = ".".join([*above, *([one.module] if one.module else [])])
        found = self._want(base, importer, one.line, optional=one.optional) if base else True
        if found:
            for name in one.names:
                if name != "*":
                    self._add(f"{base}.{name}" if base else name)


def _read(source: Path, path: str) -> bytes:
    try:
        if source.stat().st_size > MAX_SOURCE_BYTES:
            raise ProjectError(f"{path} is too large for a source file", found=f"more than {MAX_SOURCE_BYTES} bytes")
        return source.read_bytes()
    except OSError as error:
        raise ProjectError(f"cannot read {path}", found=error.strerror or str(error)) from error
