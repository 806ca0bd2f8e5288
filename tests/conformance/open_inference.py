"""The Open Inference Protocol's REST part as an OpenAPI document, written from its specification.

The specification's own document leaves the model's name open and knows two statuses of an inference; here the name is
that of the model under test, because a server with one model answers 404 to all others.

Spec: Open Inference Protocol, "HTTP/REST"; its object definitions "Server Metadata", "Model Metadata", "Inference".
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
SHAPE = {"type": "array", "items": {"type": "integer"}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": _ref(name)}


def _json(name: str) -> dict[str, Any]:
    return {"description": name, "content": {"application/json": {"schema": _ref(name)}}}


def _get(answer: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"responses": {"200": answer}}}


PARAMETERS = {"type": "object"}
SCHEMAS: dict[str, Any] = {
    "server": _object("name version extensions", name=TEXT, version=TEXT, extensions=TEXTS),
    "tensor": _object("name datatype shape", name=TEXT, datatype=TEXT, shape=SHAPE),
    "model": _object(
        "name platform", name=TEXT, versions=TEXTS, platform=TEXT, inputs=_list("tensor"), outputs=_list("tensor")
    ),
    "data": {
        "type": "array",
        "items": {"anyOf": [_ref("data"), {"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
    },
    "request_input": _object(
        "name shape datatype data", name=TEXT, shape=SHAPE, datatype=TEXT, parameters=PARAMETERS, data=_ref("data")
    ),
    "request_output": _object("name", name=TEXT, parameters=PARAMETERS),
    "request": _object(
        "inputs", id=TEXT, parameters=PARAMETERS, inputs=_list("request_input"), outputs=_list("request_output")
    ),
    "response_output": _object(
        "name shape datatype data", name=TEXT, shape=SHAPE, datatype=TEXT, parameters=PARAMETERS, data=_ref("data")
    ),
    "response": _object(
        "model_name outputs",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters=PARAMETERS,
        outputs=_list("response_output"),
    ),
    "error": _object("error", error=TEXT),
}


def document(name: str, version: str, example: dict[str, Any]) -> dict[str, Any]:
    """The document for a server with one model.

    Args:
        name: of the model.
        version: of the model.
        example: an inference that it answers; what is made up beside it seldom is one.
    """
    live = {"description": "yes"}
    infer = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("request"), "example": example}},
        },
        "responses": {"200": _json("response"), "400": _json("error")},
    }
    paths: dict[str, Any] = {
        "/v2/": _get(_json("server")),
        "/v2/health/live": _get(live),
        "/v2/health/ready": _get(live),
    }
    for base in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"):
        paths[base] = _get(_json("model"))
        paths[f"{base}/ready"] = _get(live)
        paths[f"{base}/infer"] = {"post": infer}
    return {
        "openapi": "3.0.3",
        "info": {"title": "Open Inference Protocol", "version": "2.0"},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }
