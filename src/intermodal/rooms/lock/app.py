"""What enters /app: the import closure of the predictor or app, and what `include` names.

Takes a project and its model card; hands on `FileRow` values, sorted by path in /app. Sources are parsed,
never executed.

Rules, in order:
1. Start from `predictor` or `app`, and from the local modules that trusted names of the artifact come from;
   follow imports (`app_closure`).
2. Add what `include` names (`app_include`). The same path from two different files is an error.
3. A module that is needed but that `.gitignore` keeps out is an error unless `include` names it: another
   checkout would not have it, and the image would differ.
4. Files that hold secrets by their name never enter; links must stay below the project's root.
5. A file is executable when its owner may execute it; nothing else of its mode counts.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from intermodal.errors import ProjectError, UnsafePathError
from intermodal.events import SILENT, Events
from intermodal.oci.digest import Digest
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.lock.app_closure import Closure, Missing
from intermodal.rooms.lock.app_ignore import Ignore
from intermodal.rooms.lock.app_include import MAX_FILES, Include

if TYPE_CHECKING:
    from intermodal.project.value import Project

# Modules whose distribution has another name; only used to word messages, never to resolve anything.
_DISTRIBUTIONS = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "git": "gitpython",
    "google": "protobuf",
    "jwt": "pyjwt",
    "magic": "python-magic",
    "OpenSSL": "pyopenssl",
    "pil": "pillow",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "usb": "pyusb",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}


class Collected(Struct, frozen=True):
    """Everything about /app that can be known without running it."""

    files: dict[str, Path]  # path in /app -> file
    missing: tuple[Missing, ...]  # imports that nothing local answers
    left_out: tuple[str, ...]  # files taken for secrets by their name, met in included folders
    looked: frozenset[Path]  # what decides all this: files, folders, and places where nothing was


def collect_app(project: Project, card: ModelCard, *, events: Events = SILENT) -> tuple[FileRow, ...]:
    """The files of /app, by content.

    Args:
        project: its predictor, app, include and trust decide.
        card: names that the artifact imports.
        events: told which files were left out because they look like secrets.

    Raises:
        ProjectError: the predictor's module, an include, or a source that cannot be parsed.
        UnsafePathError: a path or link leads out of the project.
        SecretFoundError: the closure or an include names a file that holds secrets.
    """
    collected = _collect(project, card)
    if collected.left_out:
        events.notice(f"left out of /app, because they look like secrets: {', '.join(collected.left_out)}")
    return tuple(_row(path, source) for path, source in sorted(collected.files.items()))


def watched(project: Project, card: ModelCard) -> tuple[Path, ...]:
    """Every file and folder whose identity decides what a build of this project gives, absent ones too.

    Artifact, golden cases, project and requirement files, sources, ignore files, included folders, and the
    places where a local module would be found if somebody made one.
    """
    collected = _collect(project, card)
    paths = set(collected.looked) | set(collected.files.values()) | {row.source for row in card.files}
    paths.update(path for path in (project.file, project.artifact, project.golden) if path is not None)
    paths.update(project.files)
    paths.add(project.root / "golden.json")  # it counts as soon as somebody records it
    return tuple(sorted(paths))


def missing_imports(project: Project, card: ModelCard, packages: Collection[str]) -> tuple[str, ...]:
    """One sentence for every import that is neither local, nor standard library, nor of a locked package.

    Args:
        project: whose predictor or app is looked at.
        card: as for `collect_app`.
        packages: normalised names of all distributions in the lock; a module counts as theirs when its name
            is one of these, or that of the distribution it is known to come from.
    """
    provided = {_plain(name) for name in packages}
    sentences = []
    for one in _collect(project, card).missing:
        top = one.module.partition(".")[0]
        known = {_plain(top), _plain(_DISTRIBUTIONS.get(top, top))}
        if not one.optional and not known & provided and not any(name.startswith(_plain(top)) for name in provided):
            sentences.append(
                f"{one.importer} line {one.line} imports {one.module}, which no locked package is named after"
            )
    return tuple(sorted(set(sentences)))


def _collect(project: Project, card: ModelCard) -> Collected:
    root = project.root.resolve()
    roots = (root, root / "src") if (root / "src").is_dir() else (root,)
    closure, ignore = Closure(roots), Ignore(root)
    apart = [project.lock_path, *(row.source for row in card.files)]
    apart += [path for path in (project.file, project.artifact, project.golden) if path is not None]
    include = Include(root, ignore, apart)
    entry = project.model.predictor or project.model.app
    if entry:
        _follow_entry(closure, project, entry)
    for name in _trusted(project, card):
        closure.follow_name(name)
    included: dict[str, Path] = {}
    for pattern in project.model.include:
        included.update(include.find(pattern))
    files = _merged(closure.files, included)
    named = {path.resolve() for path in included.values()}
    for path, source in closure.files.items():
        _check_module(path, source, include, ignore, named)
    if len(files) > MAX_FILES:
        raise ProjectError(
            f"{len(files)} files would enter /app", found=f"at most {MAX_FILES}", next="name fewer under include"
        )
    looked = closure.looked | include.looked | ignore.looked | {root / "src"}
    return Collected(files, tuple(closure.missing), tuple(sorted(set(include.left_out))), frozenset(looked))


def _follow_entry(closure: Closure, project: Project, entry: str) -> None:
    module = entry.partition(":")[0]
    if closure.follow(module):
        return
    top = module.partition(".")[0]
    provided = {_plain(re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0]) for line in project.requirements}
    if {_plain(top), _plain(_DISTRIBUTIONS.get(top, top))} & provided:
        return  # it comes with a wheel
    key = "predictor" if project.model.predictor else "app"
    raise ProjectError(
        f"{key} = {entry!r} names a module that is not there",
        found=f"no {module.replace('.', '/')}.py in {', '.join(str(root) for root in closure.roots)}",
        next=f"correct {key} under [model], or add the package it comes from to requirements",
    )


def _trusted(project: Project, card: ModelCard) -> Iterable[str]:
    """Names a pickle may use by the user's word, and what the artifact really imports of them."""
    trust = project.model.trust
    folders = tuple(name.removesuffix("*") for name in trust if name.endswith(".*"))
    names = {name for name in trust if not name.endswith("*")}
    names.update(name for name in card.imports if folders and name.startswith(folders))
    return sorted(names)


def _merged(closure: dict[str, Path], included: dict[str, Path]) -> dict[str, Path]:
    for path in sorted(closure.keys() & included.keys()):
        if closure[path].resolve() != included[path].resolve():
            raise ProjectError(
                f"two files want /app/{path}",
                found=f"{closure[path]} and {included[path]}",
                next="rename one of them, or take it out of include",
            )
    return {**included, **closure}


def _check_module(path: str, source: Path, include: Include, ignore: Ignore, named: Collection[Path]) -> None:
    include.inside(source, path)
    relative = source.relative_to(include.root).as_posix()
    if source.resolve() not in named and ignore.ignored(relative):
        raise ProjectError(
            f"{path} is imported, but .gitignore keeps it out",
            found=f"{relative} is not in the repository, so another checkout would give another image",
            next=f'name it if it belongs in: include = ["{relative}"]',
        )


def _row(path: str, source: Path) -> FileRow:
    try:
        mode = source.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UnsafePathError(
                f"{path} is no regular file", found=stat.filemode(mode), next="take it out of include"
            )
        digest, size_bytes = Digest.of_file(source)
    except OSError as error:
        raise ProjectError(f"cannot read {path}", found=error.strerror or str(error), next="check its owner") from error
    return FileRow(path, size_bytes, digest, source, bool(mode & stat.S_IXUSR))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
