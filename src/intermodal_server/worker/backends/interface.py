"""What every backend offers: load a model once, then turn tensors into tensors.

A new framework is a new file beside this one and a line in `worker/model.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from intermodal_server.contract import ModelSettings
from intermodal_server.log import Log
from intermodal_server.tensors import Tensor, TensorError


@dataclass(frozen=True)
class Load:
    """What a backend is given to load from."""

    settings: ModelSettings
    model_dir: str
    threads: int
    log: Log

    @property
    def artifact_path(self) -> str:
        """Where the artifact lies; the model's folder itself when there is none."""
        return os.path.join(self.model_dir, self.settings.artifact) if self.settings.artifact else self.model_dir


class Backend(Protocol):
    """One framework's way of loading and running."""

    def load(self, load: Load) -> None:
        """Load the model; the framework is imported here and nowhere else. May raise anything."""
        ...

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The model's outputs for one request.

        Raises:
            TensorError: the request is wrong in a way only the model's side can see; the client may read why.
        """
        ...


def ordered(tensors: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """`tensors` in the order of `names`.

    Raises:
        TensorError: an input is missing or unknown.
    """
    if len(tensors) == 1 and len(names) == 1 and tensors[0].name == names[0]:
        return list(tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise TensorError(f"input {missing[0]!r} is missing")
    if len(by_name) != len(names):
        extra = sorted(set(by_name) - set(names))
        raise TensorError(f"input {extra[0]!r} is unknown")
    return [by_name[name] for name in names]
