"""Train a classifier of handwritten digits, and write down what it answers: model.joblib and golden.json.

Needs scikit-learn alone:  pip install scikit-learn==1.9.1 && python train.py

golden.json holds requests and responses in the form of the Open Inference Protocol. Every image built from the model
must give these answers; `intermodal record` writes the same file for models whose training nobody can change.
"""

import importlib.metadata
import json
import platform
from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
GOLDEN_ROWS = 16


def tensor(name, datatype, array):
    """An array as a tensor of the protocol: flat values, row by row."""
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def golden_case(name, model, rows):
    """One request and what the model answers to it."""
    outputs = [
        tensor("label", "INT64", model.predict(rows)),
        tensor("probabilities", "FP64", model.predict_proba(rows)),
    ]
    return {"name": name, "request": {"inputs": [tensor("X", "FP64", rows)]}, "response": {"outputs": outputs}}


def main():
    """Train, save, record."""
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images, digits, test_size=0.25, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(train_x, train_y)
    print(f"accuracy on {len(test_x)} images it has not seen: {model.score(test_x, test_y):.3f}")

    joblib.dump(model, HERE / "model.joblib")
    rows = test_x[:GOLDEN_ROWS]
    cases = [golden_case(f"row {n + 1}", model, rows[n : n + 1]) for n in range(len(rows))]
    cases.append(golden_case("all rows", model, rows))
    names = ("scikit-learn", "numpy", "scipy", "joblib")
    environment = {
        "python": platform.python_version(),
        "distributions": {name: importlib.metadata.version(name) for name in names},
    }
    golden = {"format": 1, "recorded_in": "training", "environment": environment, "cases": cases}
    (HERE / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
