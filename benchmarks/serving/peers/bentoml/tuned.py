"""BentoML with its adaptive batching, large enough for eight requests of 32 rows."""

from __future__ import annotations

import bentoml
import numpy
from model import DTYPE, load


@bentoml.service
class Bench:
    """One endpoint."""

    def __init__(self) -> None:
        self.model = load()

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=256, max_latency_ms=10000)
    def predict(self, rows: numpy.ndarray) -> numpy.ndarray:
        """The model's answer."""
        return self.model(rows.astype(DTYPE))
