"""A classifier for tests whose class is what it is asked, and its metrics as prometheus_client reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intermodal_server.contract import ModelSettings, Signature, TensorSpec
from support.exposed import Metrics, read_metrics
from support.serving import Reply, Served, write_root

LABELS = """
class Model:
    def predict(self, x):
        if x == ["fail"]:
            raise ValueError("no")
        return {"label": x, "score": [[0.25, 0.75] for _ in x]}
"""


def labels_root(root: Path, **more: Any) -> Path:
    """A classifier whose class is what it is asked."""
    outputs = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("score", "FP64", (-1, 2)))
    signature = Signature((TensorSpec("x", "BYTES", (-1,)),), outputs)
    settings = ModelSettings("labels", "7", "predictor", "predictor", "", signature, "named", "labels:Model")
    return write_root(root, settings, app={"labels.py": LABELS}, **more)


def ask(server: Served, values: list[str], headers: dict[str, str] | None = None) -> Reply:
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [len(values)], "data": values}]}
    return server.request("POST", "/v2/models/labels/infer", body, headers)


def page(server: Served, *, openmetrics: bool = False) -> Metrics:
    accept = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.3" if openmetrics else "*/*"
    reply = server.watched("/metrics", {"accept": accept})
    wanted = "application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain; version=0.0.4"
    assert reply.headers["content-type"] == f"{wanted}; charset=utf-8"
    return read_metrics(reply.body.decode(), openmetrics=openmetrics)
