"""Find the backend of a model, verify its files, load it.

Takes `ModelSettings` and two folders, hands on a loaded `Backend`; also used by `replay` in the training environment,
so that record and image run the same code.
"""

from __future__ import annotations

import os
import sys
import traceback

from intermodal_server.contract import ModelSettings
from intermodal_server.log import Log, in_words
from intermodal_server.worker.backends.interface import Backend, Load
from intermodal_server.worker.verify import VerifyError, verify_files


class LoadError(Exception):
    """The model cannot be loaded; `details` is for the log alone."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def make_backend(name: str) -> Backend:
    """A backend that has loaded nothing yet.

    Raises:
        LoadError: no backend of that name.
    """
    if name == "sklearn":
        from intermodal_server.worker.backends.sklearn import SklearnBackend

        return SklearnBackend()
    if name == "onnx":
        from intermodal_server.worker.backends.onnx import OnnxBackend

        return OnnxBackend()
    if name == "predictor":
        from intermodal_server.worker.backends.predictor import PredictorBackend

        return PredictorBackend()
    raise LoadError(f"this server has no backend {name!r}")


def load_model(
    settings: ModelSettings, model_dir: str, app_dir: str, *, threads: int, strict: bool, log: Log
) -> Backend:
    """The loaded model.

    Args:
        settings: what `model.json` says.
        model_dir: folder of the model's files.
        app_dir: folder of the user's code, put first on `sys.path`; "" for none.
        threads: cores that the runtime may use.
        strict: refuse an artifact that no entry of `settings.files` vouches for.
        log: where notices go.

    Raises:
        LoadError: a file is not the locked one, a package is missing, or the framework refuses.
    """
    backend = make_backend(settings.backend)
    if app_dir and os.path.isdir(app_dir) and app_dir not in sys.path:
        sys.path.insert(0, app_dir)
    try:
        verify_files(settings.files, model_dir, settings.artifact if strict else "")
        backend.load(Load(settings, model_dir, threads, log))
    except VerifyError as error:
        raise LoadError(str(error)) from error
    except ImportError as error:
        raise LoadError(f"the model needs a package that is not there: {error}", traceback.format_exc()) from error
    except Exception as error:
        what = settings.artifact or settings.predictor
        raise LoadError(f"{what}: {in_words(error)}", traceback.format_exc()) from error
    return backend
