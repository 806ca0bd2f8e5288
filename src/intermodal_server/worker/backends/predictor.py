"""A plain Python class of the user: `load(self, folder)` and `predict(self, **inputs)`.

`folder` (a `pathlib.Path`) holds the artifact: the artifact itself when that is a folder, else the folder it lies in.
`inputs` are numpy arrays where the environment has numpy, else nested lists; BYTES are text where they are UTF-8.
`predict` returns `{name: array}`, or one array, which takes the signature's output name or "output".
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from intermodal_server.tensors import Tensor
from intermodal_server.worker.arrays import from_numpy, from_python, to_numpy, to_python
from intermodal_server.worker.backends.interface import Load, ordered


class PredictorBackend:
    """Makes one instance of the user's class and calls it."""

    def load(self, load: Load) -> None:
        """Import the class, make an instance, call its `load` if it has one."""
        module, _, name = load.settings.predictor.partition(":")
        self._instance = getattr(importlib.import_module(module), name)()
        folder = load.artifact_path
        if not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        if hasattr(self._instance, "load"):
            self._instance.load(Path(folder))
        if not hasattr(self._instance, "predict"):
            raise TypeError(f"{load.settings.predictor} has no predict method")
        self._inputs = [spec.name for spec in load.settings.signature.inputs]
        outputs = load.settings.signature.outputs
        self._output = outputs[0].name if len(outputs) == 1 else "output"
        self._numpy = importlib.util.find_spec("numpy") is not None

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What the user's `predict` returns, as tensors in its order."""
        inbound: Any = to_numpy if self._numpy else to_python
        outbound: Any = from_numpy if self._numpy else from_python
        inputs = ordered(tensors, self._inputs) if self._inputs else list(tensors)
        answer = self._instance.predict(**{tensor.name: inbound(tensor) for tensor in inputs})
        if not isinstance(answer, dict):
            answer = {self._output: answer}
        return [outbound(str(name), value) for name, value in answer.items()]
