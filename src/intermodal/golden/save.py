"""A live model as a file, in the safest format that its framework has.

Takes the object and a folder, hands on `Saved`. The rules, in order:

1. An ONNX model becomes `model.onnx`.
2. A scikit-learn model becomes `model.skops` when skops is installed and trusts every type in it, or `trust` names the
   others; a skops file can be read without running code.
3. Else, with a warning, joblib for scikit-learn and pickle for the rest.
4. Classes of the notebook itself (`__main__`) are refused: only a format that carries code could hold them, and no
   image opens such a file.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from msgspec import Struct

from intermodal.errors import InputError


class Saved(Struct, frozen=True):
    """A saved model, and how the worker reads it back."""

    artifact: str
    loader: str
    backend: str
    needs: tuple[str, ...]  # distributions that reading it takes


def save(model: Any, names: Collection[tuple[str, str]], folder: Path, trust: Collection[str]) -> Saved:
    """The file that now holds `model`.

    Args:
        model: the live object.
        names: module and name of every class and function in it.
        folder: where to write.
        trust: dotted names that may be in it beyond what skops trusts.

    Raises:
        InputError: it holds classes of the notebook.
    """
    if is_onnx(model):
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return Saved("model.onnx", "onnx", "onnx", ("onnxruntime",))
    own = sorted(name for module, name in names if module == "__main__")
    if own:
        raise InputError(
            "the model holds classes of this notebook, whose code would have to travel inside the model file",
            found=", ".join(own[:6]),
            next=f'move them into a file such as parts.py, import them from there, and trust=["parts.{own[0]}"]',
        )
    if not any(module.partition(".")[0] == "sklearn" for module, _ in names):
        _warn("pickle", "its framework has no safer format")
        with (folder / "model.pkl").open("wb") as stream:
            pickle.dump(model, stream)
        return Saved("model.pkl", "pickle", "sklearn", ("numpy",))
    saved = _save_skops(model, folder, trust) if importlib.util.find_spec("skops") else None
    if saved is not None:
        return saved
    if not importlib.util.find_spec("skops"):
        _warn("joblib", "skops is not installed (pip install skops)")
    import joblib

    joblib.dump(model, folder / "model.joblib")
    return Saved("model.joblib", "joblib", "sklearn", ("joblib",))


def is_onnx(model: Any) -> bool:
    """Whether the object is an ONNX model."""
    kind = type(model)
    return kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0].startswith("onnx")


def _save_skops(model: Any, folder: Path, trust: Collection[str]) -> Saved | None:
    import skops.io

    path = folder / "model.skops"
    try:
        skops.io.dump(model, path)
        unknown = [name for name in skops.io.get_untrusted_types(file=path) if name not in trust]
    except Exception as error:  # skops has no form for some objects, and says so in many ways
        path.unlink(missing_ok=True)
        _warn("joblib", f"skops cannot save it: {type(error).__name__}: {error}")
        return None
    if unknown:
        path.unlink()
        _warn("joblib", f"skops does not trust {', '.join(unknown[:6])}; name them in trust=[...] if you do")
        return None
    return Saved("model.skops", "skops", "sklearn", ("skops",))


def _warn(loader: str, why: str) -> None:
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("intermodal."):
        level, frame = level + 1, frame.f_back  # the line of the notebook, not one of ours
    warnings.warn(f"saved with {loader}, which runs code when it is opened: {why}", UserWarning, stacklevel=level)
