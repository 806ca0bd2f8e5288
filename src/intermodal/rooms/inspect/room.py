"""The inspect room in order: find the bytes, open the golden cases, detect, read, measure, and write the card.

Takes a project, hands on a `ModelCard`. Nothing of the model is ever imported or executed. An unsafe model is an
answer (`safe=False`), never an exception; a missing, empty, truncated or foreign file is an `ArtifactError`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.errors import ArtifactError
from intermodal.events import SILENT, Events
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.rooms.inspect.advice import containerize
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.inspect.detect import detect
from intermodal.rooms.inspect.formats.interface import Opened

if TYPE_CHECKING:
    from intermodal.golden.cases import GoldenFile
    from intermodal.project.value import Project

MAX_FILES = 10_000
MODEL_SUFFIXES = (".onnx", ".skops", ".joblib", ".pkl", ".pickle", ".cloudpickle")


def inspect_project(project: Project, events: Events = SILENT) -> ModelCard:
    """The model card of a project's artifact; see `intermodal.rooms.inspect.inspect`."""
    artifact = project.artifact
    predictor = project.model.predictor or ""
    if artifact is None and not predictor:
        raise ArtifactError(
            "there is nothing to inspect",
            found="the project has neither artifact nor predictor",
            next='[model] artifact = "model.joblib"',
        )
    paths = _paths(artifact) if artifact is not None else []
    main = None if predictor and (artifact is None or artifact.is_dir()) else _main_file(artifact, paths)
    folder = artifact if artifact is not None and artifact.is_dir() else (main.parent if main else project.root)
    opened = Opened(main, folder, project.model.trust, predictor, project.root, _golden(project))
    found = detect(opened).read(opened)
    if artifact is not None and not artifact.is_dir():
        paths += [path for path in found.extra_files if path not in paths]
    rows = _rows(paths, folder, events)
    size_bytes = sum(row.size_bytes for row in rows)
    return ModelCard(
        path=artifact or project.root,
        digest=_digest(rows, single=artifact is not None and artifact.is_file()),
        format=found.format,
        framework=found.framework,
        backend=found.backend,
        loader=found.loader,
        call=found.call,
        signature=found.signature,
        size_bytes=size_bytes,
        files=rows,
        versions=found.versions,
        requires=found.requires,
        python=found.python or _python_of(opened.golden),
        imports=found.imports,
        findings=found.findings,
        safe=found.safe,
        containerize=containerize(found, size_bytes),
        entry=main.relative_to(folder).as_posix() if main is not None else "",
    )


def _golden(project: Project) -> GoldenFile | None:
    if project.golden is None:
        return None
    from intermodal.golden.cases import read_golden

    return read_golden(project.golden)


def _python_of(golden: GoldenFile | None) -> str:
    """The Python that golden cases were recorded with in training: the model is proven there."""
    if golden is None or golden.recorded_in != "training":
        return ""
    parts = str(golden.environment.get("python", "")).split(".")
    return ".".join(parts[:2]) if len(parts) >= 2 and all(p.isdigit() for p in parts[:2]) else ""


def _paths(artifact: Path) -> list[Path]:
    """The artifact's files, sorted; symbolic links must stay inside the folder."""
    try:
        if artifact.is_file():
            if artifact.stat().st_size == 0:
                raise ArtifactError(f"{artifact.name} is empty", found="0 bytes", next="save or copy it again")
            return [artifact]
        if not artifact.is_dir():
            raise ArtifactError(f"there is no file {artifact.name}", found=f"nothing at {artifact}")
        home, paths = artifact.resolve(), []
        for root, folders, names in os.walk(artifact):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links = [Path(root) / name for name in folders if (Path(root) / name).is_symlink()]
            found = [Path(root) / name for name in sorted(names) if not name.startswith(".")]
            for path in (*links, *found):
                _need_plain(path, artifact, home)
            paths += found
            if len(paths) > MAX_FILES:
                raise ArtifactError(f"{artifact.name} has more than {MAX_FILES} files", found="is it the right folder?")
    except OSError as error:
        raise ArtifactError(f"cannot read {artifact.name}", found=error.strerror or str(error)) from error
    if not any(path.stat().st_size for path in paths):
        raise ArtifactError(f"{artifact.name} holds no file with content", found=f"{len(paths)} files")
    return sorted(paths)


def _need_plain(path: Path, artifact: Path, home: Path) -> None:
    """Refuse what is no file of the folder: links that lead out or nowhere, links to folders, pipes and devices."""
    shown = f"{path.relative_to(artifact)} of {artifact.name}"
    try:
        target, mode = path.resolve(strict=True), path.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, as Python before 3.13 tells it
        raise ArtifactError(f"cannot read {shown}", found="a link to nothing or to itself", next="remove it") from error
    if not target.is_relative_to(home):
        raise ArtifactError(
            f"{path.relative_to(artifact)} leads out of {artifact.name}", found="a symbolic link", next="copy the file"
        )
    if not stat.S_ISREG(mode):
        kind = "a link to a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ArtifactError(f"{shown} is no plain file", found=kind, next="copy what it stands for, or remove it")


def _main_file(artifact: Path | None, paths: list[Path]) -> Path:
    """The file that the backend opens."""
    assert artifact is not None
    if artifact.is_file():
        return artifact
    if any(path.name == "saved_model.pb" for path in paths):
        raise ArtifactError(f"{artifact.name} is a TensorFlow SavedModel", found="saved_model.pb", next="not built yet")
    models = [path for path in paths if path.suffix in MODEL_SUFFIXES]
    if len(paths) == 1:
        return paths[0]
    if len(models) == 1:
        return models[0]
    told = ", ".join(path.relative_to(artifact).as_posix() for path in (models or paths)[:6])
    raise ArtifactError(
        f"{artifact.name} does not say which file is the model",
        found=f"{len(models)} files with a model's suffix among {len(paths)}: {told}",
        next='name one: artifact = "FOLDER/model.onnx", or write a predictor class',
    )


def _rows(paths: list[Path], folder: Path, events: Events) -> tuple[FileRow, ...]:
    rows = []
    total = sum(path.stat().st_size for path in paths)
    with events.task("read model", total=total, unit="bytes") as task:
        for path in paths:
            hasher, size_bytes = hashlib.sha256(), 0
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    hasher.update(chunk)
                    size_bytes += len(chunk)
                    task.advance(len(chunk))
            name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
            rows.append(FileRow(name, size_bytes, Digest(hasher.hexdigest()), path))
    return tuple(sorted(rows, key=lambda row: row.path))


def _digest(rows: tuple[FileRow, ...], *, single: bool) -> Digest:
    if single and len(rows) == 1:
        return rows[0].digest
    return Digest.of("".join(f"{row.digest} {row.path}\n" for row in rows).encode())
