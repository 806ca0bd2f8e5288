"""Train a small network to tell three spiral arms apart, and write down what it answers: weights.pt and golden.json.

Needs PyTorch and NumPy:  pip install torch==2.13.0 numpy==2.4.6 && python train.py

The points are made up from a seed. golden.json holds requests and responses in the form of the Open Inference Protocol.
"""

import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np
import torch
from predictor import Spirals, network

HERE = Path(__file__).parent
GOLDEN_ROWS = 16


def points_of_arms(count, seed):
    """Points (3 * count, 2) on three noisy spirals, and the arm that each belongs to."""
    random = np.random.default_rng(seed)
    radius = np.sqrt(random.uniform(0.02, 1.0, (3, count)))
    angle = 4.0 * radius + np.arange(3)[:, None] * 2 * np.pi / 3 + random.normal(0, 0.12, (3, count))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(-1, 2)
    arms = np.repeat(np.arange(3), count)
    order = random.permutation(len(arms))
    return points[order].astype(np.float32), arms[order]


def fit(points, arms):
    """The trained network."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    rows, answers = torch.from_numpy(points), torch.from_numpy(arms)
    for _ in range(400):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(rows), answers).backward()
        optimizer.step()
    return model


def tensor(name, datatype, array):
    """An array as a tensor of the protocol: flat values, row by row."""
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def golden_case(name, model, rows):
    """One request and what the model answers to it."""
    answer = model.predict(rows)
    outputs = [tensor("arm", "INT64", answer["arm"]), tensor("probabilities", "FP32", answer["probabilities"])]
    return {"name": name, "request": {"inputs": [tensor("points", "FP32", rows)]}, "response": {"outputs": outputs}}


def main():
    """Train, save, record what the saved weights answer."""
    points, arms = points_of_arms(300, seed=1)
    torch.save(fit(points, arms).state_dict(), HERE / "weights.pt")

    model = Spirals()
    model.load(HERE)
    test_points, test_arms = points_of_arms(200, seed=2)
    right = (model.predict(test_points)["arm"] == test_arms).mean()
    print(f"accuracy on {len(test_arms)} points it has not seen: {right:.3f}")

    rows = test_points[:GOLDEN_ROWS]
    cases = [golden_case(f"row {n + 1}", model, rows[n : n + 1]) for n in range(len(rows))]
    cases.append(golden_case("all rows", model, rows))
    environment = {
        "python": platform.python_version(),
        "distributions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }
    golden = {"format": 1, "recorded_in": "training", "environment": environment, "cases": cases}
    (HERE / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
