"""The same predictor as a BentoML service."""

from pathlib import Path

import bentoml
import numpy as np
from predictor import Digits


@bentoml.service(name="bench", workers=1)
class Bench:
    def __init__(self) -> None:
        self.digits = Digits()
        self.digits.load(Path(__file__).parent)

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Digits of images, 64 numbers each."""
        return self.digits.predict(rows)["digit"]
