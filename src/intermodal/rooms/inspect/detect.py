"""Which format an artifact has: by content, never by executing it; the file name only breaks a tie.

The order matters: a predictor is named by the project and wins; archives and ONNX have their own magic; cloudpickle and
joblib are pickles with something more. What is none of these is an error that says what the bytes look like.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.formats.interface import Format, Opened

# Module and class, imported when it is their turn: a predictor does not pay for the pickle machine.
FORMATS = (
    ("predictor", "PredictorFormat"),
    ("skops", "SkopsFormat"),
    ("onnx", "OnnxFormat"),
    ("cloudpickle", "CloudpickleFormat"),
    ("joblib", "JoblibFormat"),
    ("pickle", "PickleFormat"),
)
KNOWN = "pickle, joblib, cloudpickle, skops, ONNX, or a predictor class"
LOOKS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"\x89HDF", "HDF5 (older Keras)", ""),
    (b"PK\x03\x04", "a zip archive without schema.json (Keras, PyTorch, NumPy, …)", ""),
    (b"\x89PNG", "a PNG picture", ""),
    (b"\xff\xd8\xff", "a JPEG picture", ""),
    (b"\x93NUMPY", "a NumPy array (.npy)", ""),
    (b"%PDF", "a PDF document", ""),
    (b"\x7fELF", "a program or shared library", ""),
    (b"<!DOCTYPE", "an HTML page: the download brought a page instead of the file", "download it again"),
    (b"<html", "an HTML page: the download brought a page instead of the file", "download it again"),
    (b"PAR1", "a Parquet table", ""),
    (b"GGUF", "GGUF weights", ""),
    (b"#!", "a script", ""),
)


def formats() -> Iterator[Format]:
    """Every format, in the order in which they are asked."""
    for module, name in FORMATS:
        found: Format = getattr(importlib.import_module(f"intermodal.rooms.inspect.formats.{module}"), name)()
        yield found


def detect(opened: Opened) -> Format:
    """The format whose content this is.

    Raises:
        ArtifactError: none; the message says what the bytes look like.
    """
    for candidate in formats():
        if candidate.claims(opened):
            return candidate
    assert opened.path is not None
    looks, advice = looks_like(opened.head)
    raise ArtifactError(
        f"{opened.path.name} is no model that can be read here",
        found=f"it looks like {looks}",
        next=(advice or f"known formats: {KNOWN}",),
    )


def looks_like(head: bytes) -> tuple[str, str]:
    """What the first bytes of a file suggest, and what to do about it ("" when nothing special).

    >>> looks_like(b"PAR1")[0]
    'a Parquet table'
    """
    for magic, name, advice in LOOKS:
        if head.startswith(magic):
            return name, advice
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", ""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return f"bytes starting {head[:8].hex(' ')}", ""
        text = head[: error.start].decode("utf-8")
    if any(ord(c) < 32 and c not in "\t\r\n\f" for c in text):
        return f"bytes starting {head[:8].hex(' ')}", ""
    start = text.lstrip()[:1]
    return ("JSON" if start in ("{", "[") and start else "text"), ""
