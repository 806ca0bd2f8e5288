"""An ONNX model as a custom runtime of MLServer, which has none of its own; the forest uses mlserver-sklearn."""

from __future__ import annotations

import numpy
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from model import load


class Onnx(MLModel):
    """One session."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The model's answer."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answer = self.model(numpy.asarray(rows, dtype="float32"))
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", answer)]
        )
