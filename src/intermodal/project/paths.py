"""Paths that a project file may name, and the model file when it names none.

Rules, in order:
1. A path is relative and stays inside the root, by its words and, but for the model itself, by its links too: model
   stores such as DVC link the artifact to a cache elsewhere, anything else that leads out is a mistake or an attack.
2. The model is the only file with a model's suffix in the root, or the root itself when it is a known folder format.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from intermodal.errors import ArtifactError, UnsafePathError

MODEL_SUFFIXES = frozenset(
    [
        ".joblib",
        ".pkl",
        ".pickle",
        ".cloudpickle",
        ".skops",
        ".onnx",
        ".keras",
        ".tflite",
        ".pt",
        ".pt2",
        ".pth",
        ".safetensors",
        ".ubj",
        ".cbm",
    ]
)
FOLDER_MARKS = ("saved_model.pb", "MLmodel", "model_index.json")


def inside(root: Path, name: str, key: str, *, links: bool = True) -> Path:
    """The absolute path of `name`, which `key` of the project file gives.

    Raises:
        UnsafePathError: it is absolute, climbs out of `root`, or (with `links`) a link leads out.
    """
    path = Path(os.path.normpath(root / name))
    why = ""
    if not name or "\0" in name:
        why = "it is empty or holds a zero byte"
    elif Path(name).is_absolute():
        why = "it is absolute"
    elif not path.is_relative_to(root):
        why = "it climbs out of the project"
    elif links and not path.resolve().is_relative_to(root.resolve()):
        why = f"a link leads to {path.resolve()}"
    if why:
        raise UnsafePathError(
            f"{key} leaves the project folder: {name!r}",
            found=why,
            next=f"copy the file into {root} and name it by its relative path",
        )
    return path


def find_artifact(root: Path) -> Path | None:
    """The only model in a folder, the folder itself when it is one, or None.

    Raises:
        ArtifactError: several files could be meant.
    """
    if any((root / mark).is_file() for mark in FOLDER_MARKS):
        return root
    files = sorted(p for p in root.iterdir() if p.suffix.lower() in MODEL_SUFFIXES and p.is_file())
    if len(files) > 1:
        raise ArtifactError(
            f"{root.name} holds several models",
            found=[p.name for p in files[:8]],
            next=f'say which: artifact = "{files[0].name}" in [model], or give the file itself as PATH',
        )
    return files[0] if files else None


def dns_label(text: str) -> str:
    """`text` as a DNS label.

    >>> dns_label("My Model_v2")
    'my-model-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "model"
