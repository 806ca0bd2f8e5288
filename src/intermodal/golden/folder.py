"""The folder that `pack` writes: its project file, whether it may be replaced, and putting it in place at once.

Rules, in order:
1. The project file's first line names every file that was written, and the digest of the rest of it.
2. A folder is replaced only when it holds exactly those files (and a lock) and the digest still fits.
3. It appears whole: made beside its place, synced, then exchanged with what was there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from intermodal.errors import ProjectError
from intermodal.project.load import FILE_NAME, LOCK_NAME, parse

BASES = {"3.11": "deb:bookworm", "3.13": "deb:trixie"}  # the first is the default
_HEAD = "# Written by intermodal.pack; it replaces this folder only while nothing in it was edited. "


def write_project_file(
    folder: Path,
    name: str,
    artifact: str,
    pins: Mapping[str, str],
    trust: Sequence[str],
    modules: Sequence[str],
    python: str,
) -> None:
    """Write `intermodal.toml` for what lies in `folder` already."""
    lines = ["[model]", f"name = {json.dumps(name)}", 'version = "0.1.0"', f"artifact = {json.dumps(artifact)}"]
    if modules:
        lines.append(f"include = {json.dumps(list(modules))}")
    if trust:
        lines.append(f"trust = {json.dumps(list(trust))}")
    lines += ["", "[environment]", f"python = {json.dumps(python)}"]
    if python in BASES and python != next(iter(BASES)):
        lines.append(f"base = {json.dumps(BASES[python])}")
    lines.append("requirements = [")
    lines += [f"    {json.dumps(f'{distribution}=={version}')}," for distribution, version in pins.items()]
    body = "\n".join([*lines, "]", ""])
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    files = " ".join(f"{digest}:{path}" for path, digest in digests.items())
    own = hashlib.sha256(body.encode()).hexdigest()[:16]
    (folder / FILE_NAME).write_text(f"{_HEAD}{own}\n# {files}\n\n{body}", "utf-8")


def refuse_foreign(folder: Path, name: str) -> None:
    """Return when `folder` may be replaced: it does not exist, is empty, or is as `pack` left it for `name`.

    Raises:
        ProjectError: anything in it is not of `pack`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    reason = _foreign(folder, name)
    if reason:
        raise ProjectError(
            f"{folder.name} exists and is not replaced",
            found=reason,
            next="choose another folder=…, or move it away",
        )


def _foreign(folder: Path, name: str) -> str:
    try:
        text = (folder / FILE_NAME).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return f"{folder} was not written by intermodal.pack"
    head, _, rest = text.partition("\n")
    files, _, body = rest.partition("\n\n")
    if not head.startswith(_HEAD):
        return f"{FILE_NAME} was not written by intermodal.pack"
    if hashlib.sha256(body.encode()).hexdigest()[:16] != head.removeprefix(_HEAD):
        return f"{FILE_NAME} was edited since"
    known = {path: digest for digest, path in re.findall(r"([0-9a-f]{16}):(\S+)", files)}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_dir() or relative in (FILE_NAME, LOCK_NAME) or "__pycache__" in path.parts:
            continue
        if relative not in known:
            return f"{relative} is not of intermodal.pack"
        # golden cases and model may be remade by `record` and retraining; code that somebody edited may not be lost
        if relative.endswith(".py") and hashlib.sha256(path.read_bytes()).hexdigest()[:16] != known[relative]:
            return f"{relative} was edited since"
    model = parse(folder / FILE_NAME).model
    if model is None or model.name != name:
        return f"it holds {model.name if model else 'no model'}, not {name}"
    return ""


def put_in_place(made: Path, target: Path) -> None:
    """Let `made` stand at `target`; what was there is gone afterwards, but for its lock, which moves along."""
    if (target / LOCK_NAME).is_file():
        shutil.copy2(target / LOCK_NAME, made / LOCK_NAME)
    for path in (*made.rglob("*"), made):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if target.exists():
        _exchange(made, target)
    else:
        made.rename(target)


def _exchange(made: Path, target: Path) -> None:
    """Swap two folders; what was at `target` is then in the temporary folder around `made`, which goes away."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        at_cwd, exchange = -100, 2
        if libc.renameat2(at_cwd, os.fsencode(made), at_cwd, os.fsencode(target), exchange) == 0:
            return
    target.rename(made.with_name(f"{made.name}.old"))  # no exchange here (macOS, some file systems): two steps
    made.rename(target)
