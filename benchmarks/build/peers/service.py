"""The hand-written server of the Dockerfiles: the same predictor behind FastAPI."""

from pathlib import Path

import numpy as np
from fastapi import FastAPI
from predictor import Digits

app = FastAPI()
digits = Digits()
digits.load(Path(__file__).parent)


@app.get("/v2/health/ready")
def ready() -> dict[str, bool]:
    """Answers once the model is loaded."""
    return {"ready": True}


@app.post("/predict")
def predict(rows: list[list[float]]) -> dict[str, list[int]]:
    """Digits of images, 64 numbers each."""
    return {name: values.tolist() for name, values in digits.predict(np.asarray(rows)).items()}
