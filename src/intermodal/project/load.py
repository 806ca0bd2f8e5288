"""`load`: from a path to the `Project` that every room works on.

Takes a project folder, an `intermodal.toml`, a `pyproject.toml` with `[tool.intermodal]`, or a bare model file or
folder. Reads only project and requirement files; of the model it reads the bytes for a bare one's lock name, nothing
else, and executes nothing.

Rules, in order:
1. `intermodal.toml` wins over `[tool.intermodal]`; a folder with neither is a bare model.
2. Every fault of the file is reported at once.
3. Keys that would change the image and whose room is missing are refused, the others are noticed.
4. Paths stay inside the root.
5. What the file leaves out is filled in the same way everywhere: the name from the folder or file, the model when only
   one can be meant, golden cases when `golden.json` lies beside, the platform of this host.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
from msgspec.structs import replace

from intermodal.errors import ArtifactError, ProjectError
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.project import not_built
from intermodal.project.faults import Fault, find_faults
from intermodal.project.paths import dns_label, find_artifact, inside
from intermodal.project.requirements import read_requirements
from intermodal.project.schema import Model, ProjectFile
from intermodal.project.toml_file import read_text, read_toml
from intermodal.project.value import Project

FILE_NAME = "intermodal.toml"
LOCK_NAME = "pylock.intermodal.toml"
GOLDEN_NAME = "golden.json"


def load(path: Path, host: Host, *, recording: bool = False) -> Project:
    """The project that `path` stands for.

    Args:
        path: folder, project file or bare model, absolute or relative to the current folder.
        host: this machine: its platform is the default, its data folder keeps locks of bare models.
        recording: golden cases are about to be written, so a `golden` that names no file yet is no fault.

    Raises:
        ProjectError: no such path, unreadable, unknown keys or wrong values (all of them).
        NotBuiltYetError: a key asks for a room that does not exist yet.
        ArtifactError: the model is missing, or several could be meant.
        RequirementError: a requirement line that cannot be honoured.
        UnsafePathError: a path leads out of the project.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and a name comes from the link
    if path.is_dir():
        if (path / FILE_NAME).is_file():
            project = _from_file(path / FILE_NAME, host, recording)
            if _has_table(path / "pyproject.toml"):
                note = f"{FILE_NAME} is used; [tool.intermodal] of pyproject.toml is not read"
                project = replace(project, notices=(*project.notices, note))
            return project
        if _has_table(path / "pyproject.toml"):
            return _from_file(path / "pyproject.toml", host, recording)
        return _bare_folder(path, host)
    if not path.exists():
        raise _missing(path)
    if path.suffix == ".toml":
        return _from_file(path, host, recording)
    return _bare(path, host)


def settings_here(folder: Path) -> tuple[str, ProjectFile] | None:
    """The name and the settings of the project in `folder`, whatever of its files is there; None without a project.

    Raises:
        ProjectError: there is a project file, and it is unreadable or wrong.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - as in load
    file = folder / FILE_NAME
    if not file.is_file():
        file = folder / "pyproject.toml"
        if not _has_table(file):
            return None
    settings = parse(file)
    return (settings.model.name if settings.model else None) or dns_label(folder.resolve().name), settings


def _missing(path: Path) -> ProjectError:
    import difflib

    names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return ProjectError(
        f"no such file or folder: {path.name}",
        found=f"nothing at {path}",
        next=f"did you mean {close[0]}?" if close else "give a project folder, an intermodal.toml or a model file",
    )


def _has_table(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        return "[tool.intermodal" in read_text(path)
    except ProjectError:
        return False


def parse(path: Path) -> ProjectFile:
    """The settings in a project file, nothing resolved and no defaults of the folder filled in.

    Raises:
        ProjectError: unreadable, unknown keys or wrong values; every one of them is named.
    """
    text, document = read_toml(path)
    prefix = ""
    if path.name == "pyproject.toml":
        tool = document.get("tool")
        prefix = "tool.intermodal"
        if not isinstance(tool, dict) or not isinstance(tool.get("intermodal"), dict):
            raise ProjectError(
                f"{path.name} has no [tool.intermodal]", next="intermodal init writes an intermodal.toml"
            )
        document = tool["intermodal"]
    faults = find_faults(document, text, prefix=prefix)
    if faults:
        raise _as_error(faults, path.name)
    try:
        settings = msgspec.convert(document, ProjectFile)
    except msgspec.ValidationError as error:  # what find_faults does not know; it should know everything
        raise ProjectError(f"wrong value in {path.name}", found=str(error)) from error
    _refuse_contradictions(settings, path.name)
    return settings


def _as_error(faults: list[Fault], file: str) -> ProjectError:
    def at(fault: Fault) -> str:
        return f"{file} line {fault.line}" if fault.line else file

    if len(faults) == 1:
        only = faults[0]
        detail = f"{at(only)}: {only.found}" if only.found else at(only)
        return ProjectError(only.message, found=detail, next=only.next)
    return ProjectError(
        f"{file} has {len(faults)} faults",
        found=[f"line {f.line}: {f.message}" + (f": {f.found}" if f.found else "") for f in faults],
        next=[f"line {f.line}: {f.next}" for f in faults],
    )


def _refuse_contradictions(settings: ProjectFile, file: str) -> None:
    kinds = [
        name
        for name, given in (
            ("[model]", settings.model is not None),
            ("[[models]]", bool(settings.models)),
            ("[pipeline]", settings.pipeline is not None),
        )
        if given
    ]
    if len(kinds) > 1:
        raise ProjectError(
            f"{file} has {' and '.join(kinds)}", found="only one of them can be shipped", next="keep one"
        )
    model = settings.model
    if model is not None and model.predictor is not None and model.app is not None:
        raise ProjectError(f"{file} has both predictor and app", found="[model] predictor and app", next="keep one")


def _from_file(path: Path, host: Host, recording: bool) -> Project:
    settings = parse(path)
    root = path.parent
    not_built.refuse(settings, path.name)
    model = settings.model or Model()
    artifact = _artifact(model, root)
    for name in model.include:
        inside(root, name, "include in [model]")
    requirements, files = read_requirements(settings.environment.requirements, root)
    return Project(
        root=root,
        file=path,
        name=model.name or dns_label(root.resolve().name),
        version=model.version,
        artifact=artifact,
        golden=_golden(model, root, recording),
        lock_path=root / LOCK_NAME,
        requirements=requirements,
        platforms=settings.environment.platforms or (host.platform,),
        model=model,
        settings=settings,
        notices=not_built.later(settings),
        files=(path, *files),
    )


def _artifact(model: Model, root: Path) -> Path | None:
    if model.artifact is None:
        if model.predictor is not None:
            return None
        found = find_artifact(root)
        if found is None:
            raise ArtifactError(
                f"{root.name} holds no model",
                found=f"no artifact in [model], and no model file in {root}",
                next='say where it is: artifact = "model.joblib" in [model], or predictor = "module:Class"',
            )
        return found
    path = inside(root, model.artifact, "artifact in [model]", links=False)
    if not path.exists():
        import difflib

        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, names, n=1)
        raise ArtifactError(
            f"artifact in [model] does not exist: {model.artifact}",
            found=f"nothing at {path}",
            next=f"did you mean {close[0]}?" if close else "train the model first, or correct the path",
        )
    return path


def _golden(model: Model, root: Path, recording: bool) -> Path | None:
    if model.golden is None:
        path = root / GOLDEN_NAME
        return path if path.is_file() else None
    path = inside(root, model.golden, "golden in [model]")
    if path.is_file():
        return path
    if recording:
        return None
    raise ProjectError(
        f"golden in [model] does not exist: {model.golden}",
        found=f"no file {path}",
        next="intermodal record PATH --inputs FILE writes it; without the key the model ships without golden cases",
    )


def _bare_folder(path: Path, host: Host) -> Project:
    artifact = find_artifact(path)
    if artifact is None:
        raise ArtifactError(
            f"{path.name or path} holds neither a project nor a model",
            found=f"no {FILE_NAME}, no [tool.intermodal] in pyproject.toml, no model file in {path}",
            next=f"give a model file, or write {path / FILE_NAME}",
        )
    project = _bare(artifact, host)
    if artifact != path:
        note = f"{artifact.name} is shipped, the only model in {path}"
        project = replace(project, notices=(note, *project.notices))
    return project


def _bare(path: Path, host: Host) -> Project:
    """A model without a project file; its lock lives in the data folder under the digest of its bytes."""
    root = path if path.is_dir() else path.parent
    beside = root / GOLDEN_NAME
    notices = []
    if beside.is_file():
        notices.append(f"golden cases are taken from {beside}")
    if path.is_file() and (root / FILE_NAME).is_file():
        notices.append(f"{FILE_NAME} beside {path.name} is not read; give the folder as PATH to use it")
    return Project(
        root=root,
        file=None,
        name=dns_label(path.stem if path.is_file() else path.resolve().name),
        version="latest",
        artifact=path,
        golden=beside if beside.is_file() else None,
        lock_path=host.data_dir / "locks" / f"{bare_digest(path).hex}.toml",
        requirements=(),
        platforms=(host.platform,),
        model=Model(artifact=path.name if path.is_file() else "."),
        settings=ProjectFile(),
        notices=tuple(notices),
    )


def bare_digest(path: Path) -> Digest:
    """The digest of a file, or of a folder's sorted list of file names and digests (links are followed to files).

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        if path.is_file():
            return Digest.of_file(path)[0]
        files = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
        rows = "".join(f"{Digest.of_file(p)[0]}  {name}\n" for name, p in files)
        return Digest.of(rows.encode("utf-8", "surrogateescape"))
    except OSError as error:
        reason = re.sub(r"^\[Errno \d+\] ", "", str(error))
        raise ArtifactError(f"cannot read {path.name}", found=reason, next="check its permissions") from error
