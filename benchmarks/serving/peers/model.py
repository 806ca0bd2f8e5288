"""The two models as every peer calls them: rows in, classes (forest) or probabilities (mlp) out."""

from __future__ import annotations

import os

import numpy

KIND = os.environ["BENCH_KIND"]  # forest | mlp
DTYPE = "float64" if KIND == "forest" else "float32"


def load():
    """A function of an array `(rows, 64)`."""
    if KIND == "forest":
        import joblib

        return joblib.load(os.environ["BENCH_MODEL"]).predict
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"X": rows})[0]


def array(rows):
    """Nested lists as the array that the model takes."""
    return numpy.array(rows, dtype=DTYPE)
