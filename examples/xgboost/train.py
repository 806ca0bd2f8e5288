"""Train boosted trees that foresee the service of a pump, and write down what they answer: model.ubj and golden.json.

Needs XGBoost and NumPy:  pip install xgboost==3.2.0 numpy==2.4.6 && python train.py

The readings are made up from a seed; some sensors were silent (NaN, in JSON null). golden.json holds requests and
responses in the form of the Open Inference Protocol.
"""

import importlib.metadata
import json
import math
import platform
from pathlib import Path

import numpy as np
import xgboost
from predictor import Pump

HERE = Path(__file__).parent
GOLDEN_ROWS = 16


def readings(count, seed):
    """Readings (count, 5) of hours, bar, degrees, vibration and starts, and whether service was needed."""
    random = np.random.default_rng(seed)
    hours, starts = random.uniform(0, 4000, count), random.poisson(12, count)
    wear = hours / 2000 + starts / 20 + random.normal(0, 0.3, count)
    bar, degrees = 6 - 0.6 * wear + random.normal(0, 0.3, count), 50 + 9 * wear + random.normal(0, 4, count)
    vibration = 1 + 0.8 * wear**2 + random.gamma(2.0, 0.2, count)
    table = np.column_stack([hours, bar, degrees, vibration, starts]).astype(np.float32)
    table[random.random(table.shape) < 0.05] = np.nan
    return table, wear + random.normal(0, 0.2, count) > 1.8


def tensor(name, array):
    """An array as a tensor of the protocol: flat values, row by row; null for what was not measured."""
    data = [None if math.isnan(value) else value for value in array.ravel().tolist()]
    return {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": data}


def golden_case(name, model, rows):
    """One request and what the model answers to it."""
    outputs = [tensor("service", model.predict(rows)["service"])]
    return {"name": name, "request": {"inputs": [tensor("readings", rows)]}, "response": {"outputs": outputs}}


def main():
    """Train, save, record what the saved trees answer."""
    table, needed = readings(2000, seed=1)
    settings = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.2, "tree_method": "hist", "seed": 0}
    trees = xgboost.train(settings, xgboost.DMatrix(table, label=needed), num_boost_round=40)
    trees.save_model(HERE / "model.ubj")

    model = Pump()
    model.load(HERE)
    test_table, test_needed = readings(1000, seed=2)
    right = ((model.predict(test_table)["service"] > 0.5) == test_needed).mean()
    print(f"accuracy on {len(test_needed)} pumps it has not seen: {right:.3f}")

    rows = test_table[:GOLDEN_ROWS]
    cases = [golden_case(f"row {n + 1}", model, rows[n : n + 1]) for n in range(len(rows))]
    cases.append(golden_case("all rows", model, rows))
    environment = {
        "python": platform.python_version(),
        "distributions": {name: importlib.metadata.version(name) for name in ("xgboost", "numpy")},
    }
    golden = {"format": 1, "recorded_in": "training", "environment": environment, "cases": cases}
    (HERE / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
