"""BentoML as its guide has it."""

from __future__ import annotations

import bentoml
import numpy
from model import DTYPE, load


@bentoml.service
class Bench:
    """One endpoint."""

    def __init__(self) -> None:
        self.model = load()

    @bentoml.api
    def predict(self, rows: numpy.ndarray) -> numpy.ndarray:
        """The model's answer."""
        return self.model(rows.astype(DTYPE))
