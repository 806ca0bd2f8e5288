"""TensorFlow Serving's REST form, which is also KServe's V1: status, metadata, and `:predict` by row or by column.

Rules, in order: one of `instances` and `inputs`; `signature_name` is empty or `serving_default`, there is no other;
`instances` is answered with `predictions`, one a row, `inputs` with `outputs`, one a column; a single output stands
without its name. Of a scikit-learn model a row of `predictions` is what `predict` returns, as KServe answers;
`outputs` has everything.

Spec: TensorFlow Serving, "RESTful API"; KServe, "V1 Inference Protocol".
"""

from __future__ import annotations

from typing import Any

import orjson

from intermodal_server.contract import TensorSpec
from intermodal_server.front.dialects import values
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.limits import Refusal
from intermodal_server.front.names import check_names
from intermodal_server.front.service import JSON, Answer, Routes, Service, json_answer
from intermodal_server.front.v2 import decode_json

SIGNATURE = "serving_default"
DTYPES = {
    "BOOL": "DT_BOOL", "UINT8": "DT_UINT8", "UINT16": "DT_UINT16", "UINT32": "DT_UINT32", "UINT64": "DT_UINT64",
    "INT8": "DT_INT8", "INT16": "DT_INT16", "INT32": "DT_INT32", "INT64": "DT_INT64", "FP16": "DT_HALF",
    "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING",
}  # fmt: skip


class V1:
    """The handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings

    def routes(self) -> Routes:
        """Every path of the protocol for this model."""
        name, version = self._settings.name, self._settings.version
        found: Routes = {"/v1/models": {"GET": self._list}}
        for base in (f"/v1/models/{name}", f"/v1/models/{name}/versions/{version}"):
            found[base] = {"GET": self._status}
            found[f"{base}/metadata"] = {"GET": self._metadata}
            found[f"{base}:predict"] = {"POST": self.predict}
        return found

    async def _list(self, _: Exchange) -> Answer:
        return json_answer(200, {"models": [self._settings.name]})

    async def _status(self, _: Exchange) -> Answer:
        """TensorFlow Serving's document; `name` and `ready` are what KServe's client reads."""
        reason = str(self._service.health_body().get("reason", ""))
        status = {"error_code": "UNAVAILABLE" if reason else "OK", "error_message": reason}
        state = {"version": self._settings.version, "state": "LOADING" if reason else "AVAILABLE", "status": status}
        body = {"name": self._settings.name, "ready": not reason, "model_version_status": [state]}
        return json_answer(503 if reason else 200, body)

    async def _metadata(self, _: Exchange) -> Answer:
        definition = {
            "inputs": {spec.name: _tensor_info(spec) for spec in self._settings.signature.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in self._service.outputs},
            "method_name": "tensorflow/serving/predict",
        }
        spec = {"name": self._settings.name, "signature_name": "", "version": self._settings.version}
        document = {"model_spec": spec, "metadata": {"signature_def": {"signature_def": {SIGNATURE: definition}}}}
        return json_answer(200, document)

    async def predict(self, exchange: Exchange) -> Answer:
        """Answer `instances` or `inputs`."""
        exchange.protocol = "v1"
        body = await self._service.body(exchange)
        await check_names(body)
        document = _checked(decode_json(body))
        if "instances" in document:
            tensors = values.from_rows(document["instances"], self._settings)
            outputs = await self._service.run(exchange, tensors)
            answer = {"predictions": values.to_rows(values.answered(outputs, self._settings))}
        else:
            tensors = values.from_inputs(document["inputs"], self._settings)
            answer = {"outputs": values.to_columns(await self._service.run(exchange, tensors))}
        return 200, JSON, orjson.dumps(answer)


def _checked(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict) or ("inputs" in document) == ("instances" in document):
        raise Refusal(400, 'the body must be an object with one of "instances" and "inputs"')
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise Refusal(400, "signature_name must be a string")
    if signature not in ("", SIGNATURE):
        raise Refusal(400, f"the model has one signature, {SIGNATURE}")
    return document


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dimensions = [{"size": str(length), "name": ""} for length in spec.shape]
    shape = {"dim": dimensions, "unknown_rank": not spec.shape}
    return {"dtype": DTYPES[spec.datatype], "tensor_shape": shape, "name": spec.name}


def routes(service: Service) -> Routes:
    """Every path of V1."""
    return V1(service).routes()
