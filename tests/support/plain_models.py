"""Models without a framework, for tests of what clients send and read; each `…_root` lays out an image's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intermodal_server.contract import ModelSettings, Signature, TensorSpec
from support.serving import echo_settings, write_root

ROWS = """
class Model:
    def predict(self, X):
        return {"total": [sum(v for v in row if v is not None) for row in X]}
"""

COLUMNS = """
class Model:
    def predict(self, age, name, vip):
        first = [[1.0 if v else 0.0, float(len(n or ""))] for n, v in zip(name, vip)]
        return {"greeting": [f"{n}:{a}" for n, a in zip(name, age)], "scores": first}
"""

NAMED = """
class Model:
    def predict(self, n, s):
        return {"twice": [[2.0 * v for v in row] for row in n], "loud": [(v or "").upper() for v in s]}
"""


IRIS = """
class Model:
    def predict(self, X):
        return {
            "species": ["setosa" if row[2] < 2.5 else "virginica" for row in X],
            "score": [round(1 - row[2] / 10, 4) for row in X],
        }
"""


def rows_settings(**changes: Any) -> ModelSettings:
    """One FP64 input of three columns; answers the sum of each row."""
    signature = Signature((TensorSpec("X", "FP64", (-1, 3)),), (TensorSpec("total", "FP64", (-1,)),))
    return _settings("rows", **{"signature": signature, "call": "array", **changes})


def columns_settings(**changes: Any) -> ModelSettings:
    """Three columns of three datatypes, text among them; two outputs."""
    inputs = (TensorSpec("age", "INT64", (-1,)), TensorSpec("name", "BYTES", (-1,)), TensorSpec("vip", "BOOL", (-1,)))
    outputs = (TensorSpec("greeting", "BYTES", (-1,)), TensorSpec("scores", "FP64", (-1, 2)))
    return _settings("columns", **{"signature": Signature(inputs, outputs), "call": "columns", **changes})


def named_settings(**changes: Any) -> ModelSettings:
    """A matrix and text by name; the outputs are not known before the first answer."""
    signature = Signature((TensorSpec("n", "FP64", (-1, 2)), TensorSpec("s", "BYTES", (-1,))), ())
    return _settings("twice", **{"signature": signature, **changes})


def _settings(module: str, **changes: Any) -> ModelSettings:
    return echo_settings(**{"name": module, "predictor": f"{module}:Model", **changes})


def rows_root(root: Path, **changes: Any) -> Path:
    """The files of the model of rows."""
    return write_root(root, rows_settings(**changes), app={"rows.py": ROWS})


def columns_root(root: Path, **changes: Any) -> Path:
    """The files of the model of columns."""
    return write_root(root, columns_settings(**changes), app={"columns.py": COLUMNS})


def named_root(root: Path, **changes: Any) -> Path:
    """The files of the model of a matrix and text."""
    return write_root(root, named_settings(**changes), app={"twice.py": NAMED})


def iris_root(root: Path) -> Path:
    """The files of the model of docs/reference/http.md."""
    outputs = (TensorSpec("species", "BYTES", (-1,)), TensorSpec("score", "FP64", (-1,)))
    signature = Signature((TensorSpec("X", "FP64", (-1, 4)),), outputs)
    return write_root(root, _settings("iris", signature=signature, call="array"), app={"iris.py": IRIS})
