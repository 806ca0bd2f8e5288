"""Train the models that the server's tests serve; run by `support.serving.trained` in the training environment.

Usage: train_models.py FOLDER. Makes FOLDER/<name>/ as the root of an image: digits, columns, regressor, skops,
boosted (in skops, with types that skops itself does not trust), text.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import joblib
import numpy
import pandas
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from intermodal_server.contract import ModelFile, ModelSettings, Signature, TensorSpec

CODE_DIR = Path(sys.modules["intermodal_server"].__file__).parent


def save(root, name, model, signature, requests, loader="joblib", call="array"):
    (root / "model").mkdir(parents=True)
    (root / "app").mkdir()
    etc = root / "etc" / "intermodal"
    etc.mkdir(parents=True)
    artifact = f"model.{loader}"
    if loader == "skops":
        skops.io.dump(model, root / "model" / artifact)
    else:
        joblib.dump(model, root / "model" / artifact)
    data = (root / "model" / artifact).read_bytes()
    files = (ModelFile(artifact, len(data), hashlib.sha256(data).hexdigest()),)
    settings = ModelSettings(name, "1", "sklearn", loader, artifact, signature, call=call, files=files)
    (etc / "model.json").write_bytes(settings.to_json())
    command = [sys.executable, "-I", str(CODE_DIR), "replay", "--settings", str(etc / "model.json")]
    answer = subprocess.run(
        [*command, "--model-dir", str(root / "model"), "--app-dir", str(root / "app")],
        input=json.dumps({"requests": requests}).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    document = json.loads(answer.stdout)
    cases = [
        {"name": f"row {i}", "request": request, "response": response}
        for i, (request, response) in enumerate(zip(requests, document["responses"], strict=True))
    ]
    golden = {"format": 1, "recorded_in": "training", "environment": document["environment"], "cases": cases}
    (etc / "golden.json").write_text(json.dumps(golden))


def matrix(rows):
    return {"inputs": [{"name": "X", "datatype": "FP64", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}


def main(folder):
    x, y = load_digits(return_X_y=True)
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0, n_jobs=2)).fit(x, y)
    signature = Signature((TensorSpec("X", "FP64", (-1, 64)),), ())
    save(folder / "digits", "digits", forest, signature, [matrix(x[:1]), matrix(x[:16])])
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(x, y)
    save(folder / "skops", "skops", linear, signature, [matrix(x[:2])], loader="skops")
    boosted = HistGradientBoostingClassifier(max_iter=2, random_state=0).fit(x, y)
    save(folder / "boosted", "boosted", boosted, signature, [matrix(x[:2])], loader="skops")
    reviews = ["good and quick", "schön, gut", "bad and slow", "slow, schlecht"]
    words = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(reviews, [1, 1, 0, 0])
    text = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["quick", "schlecht"]}]}
    save(folder / "text", "text", words, Signature((TensorSpec("text", "BYTES", (-1,)),), ()), [text])
    line = LinearRegression().fit(x[:, :4], x[:, 5])
    save(
        folder / "regressor", "regressor", line, Signature((TensorSpec("X", "FP64", (-1, 4)),), ()), [matrix(x[:3, :4])]
    )

    random = numpy.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "colour": random.choice(["red", "grün", "blue"], 200),
            "size": random.normal(size=200),
            "count": random.integers(0, 9, 200),
        }
    )
    target = numpy.where((frame["colour"] == "red") ^ (frame["size"] > 0), "yes", "no")
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["colour"]), remainder="passthrough")
    columns = make_pipeline(encode, LogisticRegression()).fit(frame, target)
    inputs = (
        TensorSpec("colour", "BYTES", (-1,)),
        TensorSpec("size", "FP64", (-1,)),
        TensorSpec("count", "INT64", (-1,)),
    )
    rows = frame.head(5)
    request = {
        "inputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": [5], "data": rows[spec.name].tolist()}
            for spec in inputs
        ]
    }
    save(folder / "columns", "columns", columns, Signature(inputs, ()), [request], call="columns")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
