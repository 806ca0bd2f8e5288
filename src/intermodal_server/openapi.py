"""The OpenAPI 3.1 document of a model: every path that its server has, with the types and shapes of its signature.

Takes `ModelSettings`, hands on the document; the server answers it on `/openapi.json`, the builder writes it on the
image. Standard library only, and a function of its arguments alone, so both are the same bytes on any machine.

Rules, in order: a path that is not here does not exist; a status that is not here is not answered there; the form for a
version refers to the form without. Forms that belong together (a tensor's shape and its data) are described in words,
which JSON Schema cannot compare.

Spec: OpenAPI 3.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from intermodal_server.contract import ModelSettings, TensorSpec
from intermodal_server.openapi_bodies import Bodies
from intermodal_server.schemas import TEXT, Schema, array, whole

STATUSES: Mapping[int, str] = {
    400: "the request is wrong; the text says where",
    401: "the server wants an API key",
    408: "the request came too slowly",
    413: "the body is too large",
    415: "a content type or encoding that is not taken",
    429: "too many requests",
    431: "the headers are too large",
    500: "the model failed on this request",
    503: "not ready, or no worker was free in time",
    504: "the model did not answer in time",
}
LOOKED_AT = (400, 401, 408, 429, 431, 503)  # of every path: the guards, and the limits of a connection
ASKED = tuple(STATUSES)
RETRIED = (429, 503)
ERROR: Schema = {"$ref": "#/components/schemas/error"}
BOOL: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer", "minimum": 0}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answer(content: dict[str, Any], what: str) -> dict[str, Any]:
    return {"description": what, "content": content}


def _responses(statuses: Sequence[int]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _get(what: str, schema: Schema, **more: Any) -> dict[str, Any]:
    content = more.pop("content", None) or _json(schema)
    return {"get": {"summary": what, "responses": {"200": _answer(content, "yes"), **_responses(LOOKED_AT), **more}}}


def _probe(what: str, ready: Schema, unready: Schema) -> dict[str, Any]:
    return _get(what, ready, **{"503": _answer(_json({"anyOf": [unready, ERROR]}), "not ready, and why")})


def _post(what: str, request: dict[str, Any], answer: dict[str, Any], more: str = "") -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": what,
        "requestBody": {"required": True, "content": request},
        "responses": {"200": _answer(answer, "the model's answer"), **_responses(ASKED)},
    }
    if more:
        operation["description"] = more
    return {"post": operation}


class _Document:
    """One document while it is put together."""

    def __init__(self, settings: ModelSettings, outputs: Sequence[TensorSpec]) -> None:
        self.settings = settings
        self.bodies = Bodies(settings, outputs)
        self.paths: dict[str, Any] = {}
        self.items: dict[str, Any] = {}

    def both(self, kind: str, base: str, end: str, item: dict[str, Any]) -> None:
        """The paths with and without a version."""
        name, version = quote(self.settings.name), quote(self.settings.version)
        self.items[kind] = item
        for path in (f"{base}/models/{name}{end}", f"{base}/models/{name}/versions/{version}{end}"):
            self.paths[path] = {"$ref": f"#/components/pathItems/{kind}"}

    def v2(self) -> None:
        """Open Inference Protocol V2 and Triton's extensions."""
        name, version = {"const": self.settings.name}, {"const": self.settings.version}
        ready, live = whole({"ready": {"const": True}}), whole({"live": {"const": True}})
        unready = whole({"ready": {"const": False}, "reason": TEXT})
        server = whole({"name": TEXT, "version": TEXT, "extensions": array(TEXT)})
        tensor = whole(
            {"name": TEXT, "datatype": TEXT, "shape": array({"type": "integer"}), "assumed": BOOL}, ["assumed"]
        )
        tensors = array(self.bodies.parts.refer("metadata_tensor", tensor))
        model = whole(
            {"name": name, "versions": array(version), "platform": TEXT, "inputs": tensors, "outputs": tensors}
        )
        state = whole({"name": name, "version": version, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": TEXT})
        config = whole(
            {
                "name": name,
                "max_batch_size": WHOLE,
                "input": array({"type": "object"}),
                "output": array({"type": "object"}),
            }
        )
        self.paths["/v2"] = _get("Name and version of the server", server)
        self.paths["/v2/health/live"] = _get("Is the server alive?", live)
        self.paths["/v2/health/ready"] = _probe("Is the server ready?", ready, unready)
        self.paths["/v2/models/stats"] = {"$ref": "#/components/pathItems/v2_stats"}
        index = {"post": _get("The models of this server", array(state, 1))["get"]}
        self.paths["/v2/repository/index"] = index
        self.both("v2_model", "/v2", "", _get("Inputs and outputs of the model", model))
        self.both("v2_ready", "/v2", "/ready", _probe("Is the model ready?", _with(ready, name), _with(unready, name)))
        self.both("v2_config", "/v2", "/config", _get("The model's configuration, in Triton's words", config))
        self.both("v2_stats", "/v2", "/stats", _get("Counts and times of requests", self._stats(name, version)))
        binary: dict[str, Any] = {"application/octet-stream": {}}
        self.both(
            "v2_infer",
            "/v2",
            "/infer",
            _post(
                "Ask the model (Open Inference Protocol V2)",
                {**_json(self.bodies.v2_request()), **binary},
                {**_json(self.bodies.v2_response()), **binary},
                "`data` holds as many values as `shape` says, flat or nested. Inputs may come in any order. Binary "
                "tensors follow the JSON when the header Inference-Header-Content-Length gives its length.",
            ),
        )

    def _stats(self, name: Schema, version: Schema) -> Schema:
        duration = self.bodies.parts.refer("duration", whole({"count": WHOLE, "ns": WHOLE}))
        kinds = (
            "success",
            "fail",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
            "cache_hit",
            "cache_miss",
        )
        counted = whole(dict.fromkeys(kinds, duration))
        batch = whole({"batch_size": WHOLE, **dict.fromkeys(kinds[3:6], duration)})
        totals = dict.fromkeys(("last_inference", "inference_count", "execution_count"), WHOLE)
        one = whole(
            {"name": name, "version": version, **totals, "inference_stats": counted, "batch_stats": array(batch)}
        )
        return whole({"model_stats": array(one, 1)})

    def v1(self) -> None:
        """TensorFlow Serving, KServe V1."""
        name, version = {"const": self.settings.name}, {"const": self.settings.version}
        told = whole({"error_code": TEXT, "error_message": TEXT})
        state = whole({"version": version, "state": TEXT, "status": told})

        def status(ready: bool) -> Schema:
            return whole({"name": name, "ready": {"const": ready}, "model_version_status": array(state, 1)})

        spec = whole({"name": name, "signature_name": TEXT, "version": version})
        self.paths["/v1/models"] = _get("The models of this server", whole({"models": array(name, 1)}))
        self.both("v1_model", "/v1", "", _probe("Is the model ready?", status(True), status(False)))
        metadata = whole({"model_spec": spec, "metadata": {"type": "object"}})
        self.both("v1_metadata", "/v1", "/metadata", _get("Inputs and outputs of the model", metadata))
        self.both("v1_predict", "/v1", ":predict", self._v1_predict("Ask the model (TensorFlow Serving, KServe V1)"))

    def _v1_predict(self, what: str) -> dict[str, Any]:
        return _post(what, _json(self.bodies.v1_request()), _json(self.bodies.v1_response()))

    def others(self) -> None:
        """MLflow, SageMaker, the plain form, and the page."""
        ready = whole({"ready": {"const": True}})
        probe = _probe("Is the server ready?", ready, whole({"ready": {"const": False}, "reason": TEXT}))
        text = {"text/csv": {"schema": TEXT}}
        invoke = _post(
            "Ask the model (MLflow, SageMaker)",
            {**_json(self.bodies.invocations_request()), **text},
            {**_json(self.bodies.invocations_response()), **text},
            "Columns may come in any order when they are named.",
        )
        self.paths["/invocations"] = invoke
        self.paths["/ping"] = self.paths["/health"] = probe
        self.paths["/version"] = _get("Version of the server", {}, content={"text/plain": {"schema": TEXT}})
        request = _json(self.bodies.predict_request())
        example = self.bodies.example()
        if example is not None:
            request["application/json"]["example"] = example
        self.paths["/predict"] = _post("Ask the model", request, _json(self.bodies.predict_response()))
        self.paths["/openapi.json"] = _get("This document", {"type": "object"})
        page = {**_json(whole({"status": {"const": "alive"}})), "text/html": {"schema": TEXT}}
        self.paths["/"] = _get(
            "A page to try the model, for browsers; for all others that the server is alive", {}, content=page
        )

    def vertex(self, health: str, predict: str) -> None:
        """The two paths of Vertex AI, where they are paths of their own."""
        known = set(self.paths)
        items = ((health, self.paths["/ping"]), (predict, self._v1_predict("Ask the model (Vertex AI)")))
        for path, item in items:
            if path and (quote(path) not in known or path in ("/", "/predict")):
                self.paths[quote(path)] = {**self.paths.get(quote(path), {}), **item}


def _with(schema: Schema, name: Schema) -> Schema:
    return whole({"name": name, **schema["properties"]})


def document(
    settings: ModelSettings,
    *,
    outputs: Sequence[TensorSpec] | None = None,
    vertex_health: str = "",
    vertex_predict: str = "",
) -> dict[str, Any]:
    """The document of one model.

    Args:
        settings: of the model; also whether API keys are wanted.
        outputs: when they are known better than the signature knows them.
        vertex_health: the path that Vertex AI asks for readiness, if any.
        vertex_predict: the path that it sends requests to, if any.
    """
    made = _Document(settings, settings.signature.outputs if outputs is None else outputs)
    made.v2()
    made.v1()
    made.others()
    made.vertex(vertex_health, vertex_predict)
    retry = {"Retry-After": {"schema": TEXT, "description": "seconds"}}
    keys: list[dict[str, Any]] = [{"key": []}, {"bearer": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": settings.name, "version": settings.version},
        "security": keys if settings.serve.api_keys else [{}, *keys],
        "paths": made.paths,
        "components": {
            "pathItems": made.items,
            "responses": {
                str(status): {**_answer(_json(ERROR), what), **({"headers": retry} if status in RETRIED else {})}
                for status, what in STATUSES.items()
            },
            "schemas": {"error": whole({"error": TEXT}), **made.bodies.parts.found},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def example(settings: ModelSettings) -> dict[str, Any] | None:
    """A body for `/predict` with one row; None when it would be too long to read."""
    return Bodies(settings, ()).example()


def text(settings: ModelSettings) -> str:
    """The document as the image's label has it: sorted keys, no spaces, so that equal models have equal labels."""
    return json.dumps(document(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
