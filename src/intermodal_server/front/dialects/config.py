"""The model's configuration in Triton's words, for clients that ask for it before they send tensors.

Takes settings and outputs, hands on the JSON form of Triton's `ModelConfig`.

Rules, in order: a model whose every tensor has a free first axis and at least one more is one that batches, and its
`dims` are without that axis; of all others `max_batch_size` is 0 and `dims` are whole shapes. What is not known is left
out.

Spec: Triton, "Model Configuration Extension".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from intermodal_server.contract import ModelSettings, TensorSpec


def model_config(settings: ModelSettings, outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The configuration.

    Args:
        settings: of the model.
        outputs: as far as they are known.
    """
    tensors = [*settings.signature.inputs, *outputs]
    batches = bool(tensors and outputs) and all(len(spec.shape) > 1 and spec.shape[0] == -1 for spec in tensors)

    def described(spec: TensorSpec) -> dict[str, Any]:
        datatype = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
        return {"name": spec.name, "data_type": datatype, "dims": list(spec.shape[1:] if batches else spec.shape)}

    config: dict[str, Any] = {
        "name": settings.name,
        "platform": settings.backend,
        "backend": settings.backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": settings.serve.max_batch_rows if batches else 0,
        "input": [described(spec) for spec in settings.signature.inputs],
        "output": [described(spec) for spec in outputs],
        "instance_group": [{"name": settings.name, "kind": "KIND_CPU", "count": settings.serve.workers}],
    }
    if batches and settings.serve.max_batch_rows > 1:
        config["dynamic_batching"] = {}
    return config
