"""The packages a project asks for, as PEP 508 lines, wherever they are written.

Takes the value of `[environment] requirements`: a list, or the name of a file: requirements.txt (any `.txt` or `.in`),
pyproject.toml, pylock.toml (any `pylock.*.toml`) or uv.lock. Hands on plain lines; whether they can be had is `lock`'s.

Rules, in order:
1. Files stay inside the project's root, also those that `-r` names.
2. A line that would change where packages come from, or that stands for no distribution by name (`--index-url`, `-c`,
   `-e`, `--hash`, a path), is refused with what to do instead, never skipped.
3. Pins of a lock file are taken with their markers; what it locks by URL, path or repository is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from intermodal.errors import NotBuiltYetError, ProjectError, RequirementError
from intermodal.project.paths import inside
from intermodal.project.toml_file import read_text, read_toml

_MAX_DEPTH = 16
_NAME = re.compile(r"[A-Za-z0-9]")


def read_requirements(value: tuple[str, ...] | str, root: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """The packages that `value` names, and the files that were read for it.

    Raises:
        ProjectError: the file is missing or of a kind we do not know.
        RequirementError: a line or pin that cannot be honoured; `.found` has file and line.
        UnsafePathError: a file outside `root`.
    """
    if isinstance(value, tuple):
        return tuple(_plain(line.strip(), "requirements") for line in value if line.strip()), ()
    path = inside(root, value, "requirements")
    if not path.is_file():
        raise ProjectError(
            f"requirements names a file that does not exist: {value}",
            found=f"no file {path}",
            next='create it, or write the packages: requirements = ["scikit-learn==1.9.1"]',
        )
    if path.suffix in (".yml", ".yaml"):
        raise NotBuiltYetError(
            f"not built yet: conda environments ({value})",
            found=f"requirements = {value!r}",
            next='list its pip packages: requirements = ["scikit-learn==1.9.1"]',
        )
    if path.suffix in (".txt", ".in"):
        files: list[Path] = []
        lines = tuple(dict.fromkeys(_requirements_txt(path, root, (), files)))
        return lines, tuple(files)
    if path.name == "uv.lock":
        from intermodal.project.uv_lock import uv_pins

        return uv_pins(read_toml(path)[1], value), (path,)
    if path.name == "pyproject.toml":
        return _pyproject(read_toml(path)[1], value), (path,)
    if re.fullmatch(r"pylock(\..+)?\.toml", path.name):
        return _pylock(read_toml(path)[1], value), (path,)
    raise ProjectError(
        f"requirements names a kind of file we do not know: {value}",
        found=path.name,
        next="requirements.txt, pyproject.toml, pylock.toml or uv.lock; or a list of packages",
    )


def _requirements_txt(path: Path, root: Path, above: tuple[Path, ...], files: list[Path]) -> Iterator[str]:
    if path in above or len(above) >= _MAX_DEPTH:
        raise RequirementError(
            f"{path.name} includes itself",
            found=" -> ".join(p.name for p in (*above, path)),
            next="remove one -r",
        )
    text = read_text(path)
    files.append(path)
    for number, line in _logical_lines(text):
        nested = re.match(r"(?:-r|--requirement)(?:\s+|=)?(\S.*)$", line)
        if nested:
            target = inside(root, str(path.parent.relative_to(root) / nested[1].strip()), f"-r in {path.name}")
            if not target.is_file():
                raise ProjectError(f"{path.name} line {number} names a file that does not exist", found=str(target))
            yield from _requirements_txt(target, root, (*above, path), files)
        else:
            yield _plain(line, f"{path.name} line {number}")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start if pending else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            pending += line[:-1] + " "
            continue
        whole, pending = re.sub(r"(^|\s+)#.*$", "", pending + line).strip(), ""
        if whole:
            yield start, whole
    if pending.strip():
        yield start, pending.strip()


_REFUSED = (
    (r"(-c|--constraint)\b", "constraints are not read", "write the pins as requirements, or use uv.lock"),
    (r".*\s--hash[=\s]", "hashes belong into the lock", "remove --hash; intermodal lock writes one for every wheel"),
    (r"(-i\b|--(extra-)?index-url|--no-index|-f\b|--find-links|--trusted-host)",
     "a project cannot choose the package index", "set it in the configuration of pip or uv of this machine"),
    (r"(-e|--editable)\b", "an editable install is not a package", "list its files: include = [...] in [model]"),
    (r"-", "options are not read here", "keep only package lines and -r"),
    (r"(\.{0,2}/|~/|file:|[A-Za-z]:\\)",
     "a path is not a package by name", "publish it to an index, or include its files"),
    (r"(https?|git\+\w+|git|hg\+\w+|svn\+\w+|bzr\+\w+)[:+]", "an address is not a package by name",
     "publish it to an index and name it with its version"),
    (r".*\$\{", "variables are not expanded", "write the value"),
)  # fmt: skip


def _plain(line: str, where: str) -> str:
    for pattern, why, instead in _REFUSED:
        if re.match(pattern, line):
            shown = re.sub(r"//[^/@\s]*@", "//…@", line)  # an address may carry a password
            raise RequirementError(f"cannot use a requirement: {why}", found=f"{where}: {shown[:120]}", next=instead)
    if not _NAME.match(line):
        raise RequirementError(
            "not a requirement",
            found=f"{where}: {line[:120]}",
            next='a name and a version: "scikit-learn==1.9.1"',
        )
    return line


def _pyproject(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    project = document.get("project", {})
    if "dependencies" in project.get("dynamic", ()):
        raise RequirementError(
            f"{name} computes its dependencies when it is built",
            found='dynamic = ["dependencies"]',
            next='name the file they come from: requirements = "requirements.txt"',
        )
    lines = project.get("dependencies")
    if not isinstance(lines, list):
        raise RequirementError(
            f"{name} lists no dependencies", found="no [project] dependencies", next="add them there"
        )
    return tuple(_plain(str(line), name) for line in lines)


def _pylock(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    lines = []
    for package in document.get("packages", ()):
        pin = f"{package.get('name')}=={package.get('version')}"
        other = [kind for kind in ("vcs", "directory", "archive") if kind in package]
        if other or "version" not in package:
            raise RequirementError(
                f"{name} locks {package.get('name')} by {other[0] if other else 'no version'}",
                found="only packages of an index can enter an image",
                next="publish it to an index and lock again",
            )
        lines.append(f"{pin} ; {package['marker']}" if package.get("marker") else pin)
    if not lines:
        raise RequirementError(f"{name} locks no packages", found="no [[packages]]", next="lock again")
    return tuple(lines)
