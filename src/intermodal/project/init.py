"""`init`: a commented `intermodal.toml` from what `inspect` found.

Takes the model card and the project of a bare model, hands on text. What was found is written as keys, everything
else as comments with its default, so that the file teaches the schema. An existing file is never overwritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from intermodal.errors import ProjectError, StoreError
from intermodal.host.files import sync_folder
from intermodal.host.held import Sweep, new_file
from intermodal.project.load import FILE_NAME
from intermodal.project.value import Project


class _Evidence(Protocol):
    @property
    def version(self) -> str: ...

    @property
    def where(self) -> str: ...

    @property
    def exact(self) -> bool: ...


class Found(Protocol):
    """What is needed of a model card; `inspect` stands above this module, so its class is not named here."""

    @property
    def format(self) -> str:
        """The name of the format, such as "joblib"."""

    @property
    def python(self) -> str:
        """The version such as "3.11", or "" when the model does not say."""

    @property
    def versions(self) -> Mapping[str, _Evidence]:
        """Evidence by distribution."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Distributions that must be in the image."""


_TEMPLATE = """\
# What intermodal ships, and how. Lines that begin with # show defaults. Every key: docs/reference/project-file.md

[model]
name = {name}                       # the image is called name:version
version = {version}
artifact = {artifact}               # {format}
# predictor = "predictor:Class"     # your own class around the model: load(self, folder), predict(self, **inputs)
# include = ["labels.txt"]          # more files for /app
# golden = "golden.json"            # recorded predictions that every image must give; intermodal record writes them
# trust = ["mylib.Transformer"]     # names the model may use beyond the safe list

[environment]
requirements = {requirements}
{python}
# base = "deb:bookworm"             # Python 3.11, from signed Debian packages; "deb:trixie" has 3.13
# system = ["libgomp1"]             # more Debian packages
# prune = true                      # leave out tests and headers of packages

[serve]
# workers = 1
# max_batch_rows = 256              # 1 turns batching off
# timeout_s = 30.0
# start_check = "fail"              # golden cases are replayed before the server is ready: fail, warn or off

[check]                             # how far a number may be from its golden value; defaults depend on the datatype
# rtol = 1e-6
# atol = 1e-9
"""


def render(card: Found, project: Project) -> str:
    """The text of an `intermodal.toml` for the model that `card` describes."""
    artifact = project.artifact.relative_to(project.root).as_posix() if project.artifact else ""
    lines = []
    for name in dict.fromkeys((*sorted(card.versions), *card.requires)):
        evidence = card.versions.get(name)
        if evidence is not None and evidence.exact:
            lines.append(f"    {_quote(f'{name}=={evidence.version}')},  # {_comment(evidence.where)}")
        elif evidence is not None:
            lines.append(f"    {_quote(name)},  # {_comment(evidence.where)}: {_comment(evidence.version)}")
        else:
            lines.append(f"    {_quote(name)},")
    requirements = "[\n" + "\n".join(lines) + "\n]" if lines else "[]"
    python = f"python = {_quote(card.python)}" if card.python else '# python = "3.11"                   # the base\'s'
    version = "0.1.0" if project.version == "latest" else project.version
    return _TEMPLATE.format(
        name=_quote(project.name),
        version=_quote(version),
        artifact=_quote(artifact),
        format=card.format,
        requirements=requirements,
        python=python,
    )


def _quote(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def refuse_existing(path: Path) -> None:
    """Return when no project file lies at or beside `path`.

    Raises:
        ProjectError: there is one already.
    """
    target = path if path.suffix == ".toml" else (path if path.is_dir() else path.parent) / FILE_NAME
    if target.is_file():
        raise ProjectError(
            f"{target.name} exists already and is never overwritten",
            found=str(target.resolve()),
            next="edit it, or move it away and run init again",
        )


def write_new(root: Path, text: str) -> Path:
    """The path of the new project file in `root`; it appears whole or not at all.

    Raises:
        ProjectError: there is one already.
        StoreError: the folder cannot be written.
    """
    target = root / FILE_NAME
    prefix = f".{FILE_NAME}."
    temporary = ""
    try:
        Sweep(dry_run=False).abandoned("temporary", root, prefix)
        handle, temporary = new_file(root, prefix, mode=0o666)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.link(temporary, target)  # unlike rename, fails when somebody else was quicker
        sync_folder(root)
    except FileExistsError:
        refuse_existing(root)
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write {FILE_NAME}", found=error.strerror or str(error), next=f"make {root} writable"
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return target
