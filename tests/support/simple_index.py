"""Package indexes in a folder (the HTML form of the simple repository API), to be served or named by `file:`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from support.wheels import make_wheel


def publish(root: Path, wheels: Iterable[Path], *, hashes: bool = True) -> Path:
    """Put files into `root/files` and list them in `root/simple/<name>/index.html`; returns `root/simple`."""
    (root / "files").mkdir(parents=True, exist_ok=True)
    (root / "simple").mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        shutil.copy(wheel, root / "files" / wheel.name)
    names: dict[str, list[str]] = {}
    for file in sorted((root / "files").iterdir()):
        name = file.name.rpartition("-")[0] if file.suffix == ".gz" else file.name.partition("-")[0]
        fragment = f"#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}" if hashes else ""
        names.setdefault(name.replace("_", "-").lower(), []).append(
            f'<a href="../../files/{file.name}{fragment}">{file.name}</a>'
        )
    for name, links in names.items():
        (root / "simple" / name).mkdir(exist_ok=True)
        page = "<!DOCTYPE html><html><body>\n" + "<br>\n".join(links) + "\n</body></html>\n"
        (root / "simple" / name / "index.html").write_text(page)
    return root / "simple"


def pure_wheels(folder: Path, *specs: str) -> list[Path]:
    """One wheel per "name==version [requirement, …]"."""
    made = []
    for spec in specs:
        head, _, rest = spec.partition(" ")
        name, _, version = head.partition("==")
        requires = tuple(part.strip() for part in rest.split(",") if part.strip())
        module = {f"{name}/__init__.py": f"__version__ = {version!r}\n"}
        made.append(make_wheel(folder, name, version, module, requires=requires))
    return made
