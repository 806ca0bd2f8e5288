"""ONNX models under onnxruntime: the model's own names and types, telemetry off.

Maps that scikit-learn converters emit (a list of {class: probability}) become one array, classes in sorted order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from intermodal_server.tensors import Tensor
from intermodal_server.worker.arrays import from_numpy, to_numpy
from intermodal_server.worker.backends.interface import Load, ordered


def _model_file(path: str) -> str:
    if not os.path.isdir(path):
        return path
    found = sorted(name for name in os.listdir(path) if name.endswith(".onnx"))
    if len(found) != 1:
        raise ValueError(f"the folder holds {len(found)} .onnx files; exactly one is expected")
    return os.path.join(path, found[0])


class OnnxBackend:
    """Runs one `InferenceSession` on the CPU."""

    def load(self, load: Load) -> None:
        """Open the session."""
        import onnxruntime

        if hasattr(onnxruntime, "disable_telemetry_events"):
            onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = load.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would burn a core each
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _model_file(load.artifact_path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [item.name for item in self._session.get_inputs()]
        self._outputs = [item.name for item in self._session.get_outputs()]

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """All outputs of the graph, in its order."""
        feed = {tensor.name: to_numpy(tensor) for tensor in ordered(tensors, self._inputs)}
        answers = self._session.run(self._outputs, feed)
        return [self._output(name, value) for name, value in zip(self._outputs, answers)]

    @staticmethod
    def _output(name: str, value: Any) -> Tensor:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            keys = sorted(value[0])
            value = [[row[key] for key in keys] for row in value]
        return from_numpy(name, value)
