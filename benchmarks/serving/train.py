"""Train what is served, in the models' own environment: `train.py FOLDER`.

Makes FOLDER/forest (100 trees) and FOLDER/mlp (64-64-32-10, ONNX) on the digits of scikit-learn, FOLDER/echo (numpy,
gives back its input) and FOLDER/noop (nothing, without numpy), and FOLDER/job.json: the rows that are sent, the right
answers, and how long the models take by themselves.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import joblib
import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier

ROWS = (1, 32)


def mlp(x, y):
    """The network as an ONNX model: probabilities of 10 classes."""
    trained = MLPClassifier((64, 32), max_iter=60, random_state=0).fit(x, y)
    nodes, weights, last = [], [], "X"
    for number, (matrix, bias) in enumerate(zip(trained.coefs_, trained.intercepts_, strict=True)):
        weights.append(numpy_helper.from_array(matrix.astype("f4"), f"w{number}"))
        weights.append(numpy_helper.from_array(bias.astype("f4"), f"b{number}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [f"g{number}"]))
        last = f"g{number}"
        if number < len(trained.coefs_) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{number}"]))
            last = f"r{number}"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def own_ms(call, rows, seconds=2.0):
    """The median time of one call, in milliseconds."""
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call(rows)
        taken.append(time.perf_counter() - begin)
    return 1000 * float(numpy.median(taken))


def main(folder):
    """Everything, in a few seconds."""
    x, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(100, random_state=0).fit(x, y)
    for name in ("forest", "mlp", "echo", "noop"):
        (folder / name).mkdir(parents=True)
    joblib.dump(forest, folder / "forest" / "model.joblib")
    onnx.save(mlp(x, y), folder / "mlp" / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "mlp" / "model.onnx", options, providers=["CPUExecutionProvider"])

    def run(rows):
        return session.run(None, {"X": rows})[0]

    single = x.astype("f4")
    answers = {str(n): {"forest": forest.predict(x[:n]).tolist(), "mlp": run(single[:n]).tolist()} for n in ROWS}
    own = {str(n): {"forest": own_ms(forest.predict, x[:n]), "mlp": own_ms(run, single[:n])} for n in ROWS}
    (folder / "echo" / "bench_model.py").write_text("class Model:\n    def predict(self, X):\n        return X\n")
    (folder / "noop" / "bench_model.py").write_text("class Model:\n    def predict(self, X):\n        return X\n")
    rows = x[: max(ROWS)].tolist()
    (folder / "job.json").write_text(json.dumps({"rows": rows, "answers": answers, "own_ms": own}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
