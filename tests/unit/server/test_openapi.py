"""The OpenAPI document has exactly the paths of the server, and is the same bytes for the same model."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, cast
from urllib.parse import unquote

import jsonschema
import pytest
from support.plain_models import columns_settings, named_settings, rows_settings

from intermodal_server import openapi
from intermodal_server.contract import ModelSettings, ServeSettings, Signature, TensorSpec
from intermodal_server.front.app import App
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.head import Head
from intermodal_server.front.health import Health
from intermodal_server.front.service import Service
from intermodal_server.log import Log
from intermodal_server.options import VertexRoutes

WIDE = Signature(
    tuple(TensorSpec(f"column {i}", ("FP64", "BYTES", "INT64")[i % 3], (-1,)) for i in range(150)),
    (TensorSpec("prediction", "FP64", (-1,)),),
)
IMAGE = Signature((TensorSpec("x", "FP32", (-1, 3, 224, 224)),), (TensorSpec("y", "FP16", (-1, 1000)),))
SETTINGS = [
    rows_settings(),
    columns_settings(),
    named_settings(),
    rows_settings(name="a-b", version="1.0+x y/z"),
    rows_settings(signature=Signature((), ())),
    rows_settings(signature=IMAGE, call="named"),
    rows_settings(signature=Signature((TensorSpec("X", "BYTES", (-1, 2), assumed=True),), ())),
    columns_settings(signature=WIDE),
]
VERTEX = [
    VertexRoutes(),
    VertexRoutes("/healthz", "/v1/endpoints/7:predict"),
    VertexRoutes("/", "/predict"),
    VertexRoutes("/ping", "/v2/models/rows/infer"),
    VertexRoutes("/vertex", "/vertex"),
]


def _service(settings: ModelSettings, vertex: VertexRoutes) -> Service:
    return Service(settings, cast(Any, None), Health(), slow_body_s=1, log=Log("test"), vertex=vertex)


def _served(service: Service) -> set[tuple[str, str]]:
    routes = App(service, Log("test"))._routes
    return {(path, method) for path, methods in routes.items() for method in methods}


def _described(document: dict[str, Any]) -> set[tuple[str, str]]:
    found = set()
    for path, item in document["paths"].items():
        methods = document["components"]["pathItems"][item["$ref"].rpartition("/")[2]] if "$ref" in item else item
        found |= {(unquote(path), method.upper()) for method in methods}
    return found


@pytest.mark.parametrize("vertex", VERTEX)
@pytest.mark.parametrize("settings", SETTINGS[:4], ids=lambda settings: settings.version)
def test_every_path_and_no_other(settings: ModelSettings, vertex: VertexRoutes) -> None:
    document = openapi.document(settings, vertex_health=vertex.health, vertex_predict=vertex.predict)
    assert _described(document) == _served(_service(settings, vertex))


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_schema_is_one_and_every_reference_leads_somewhere(settings: ModelSettings) -> None:
    document = openapi.document(settings)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for part in json.dumps(document).split('"$ref": "#/components/')[1:]:
        kind, name = part.partition('"')[0].split("/", 1)
        assert name in document["components"][kind]


def test_equal_models_have_equal_documents() -> None:
    for settings in SETTINGS:
        again = ModelSettings.from_json(settings.to_json())
        assert openapi.text(again) == openapi.text(settings)
        assert openapi.text(settings) == json.dumps(
            json.loads(openapi.text(settings)), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )


def test_a_fixed_length_is_least_and_most() -> None:
    schemas = openapi.document(SETTINGS[5])["components"]["schemas"]
    assert schemas["FP32_n_3_224_224"]["items"] == {"$ref": "#/components/schemas/FP32_3_224_224"}
    assert (schemas["FP32_224"]["minItems"], schemas["FP32_224"]["maxItems"]) == (224, 224)
    assert "minItems" not in schemas["FP32_n_3_224_224"]


def test_a_wide_table_costs_names_and_no_more() -> None:
    assert len(openapi.text(SETTINGS[7])) < 150 * 900


def test_keys_are_wanted_when_the_model_says_so() -> None:
    assert {} in openapi.document(rows_settings())["security"]
    wanting = replace(rows_settings(), serve=ServeSettings(api_keys="file:/run/keys"))
    assert {} not in openapi.document(wanting)["security"]


def test_examples_are_what_the_model_takes() -> None:
    assert openapi.example(columns_settings()) == {"inputs": {"age": [0], "name": ["text"], "vip": [False]}}
    assert openapi.example(SETTINGS[5]) is None  # 150,528 numbers


def test_a_path_of_vertex_keeps_the_form_it_has_elsewhere() -> None:
    service = _service(rows_settings(), VertexRoutes("/ping", "/v2/models/rows/infer"))
    plain = _service(rows_settings(), VertexRoutes())
    ours, theirs = App(service, Log("test")), App(plain, Log("test"))
    for path, method in (("/ping", "GET"), ("/v2/models/rows/infer", "POST")):
        kinds = [app.handler(_exchange(path, method)).__qualname__ for app in (ours, theirs)]
        assert kinds[0] == kinds[1]
    taken = App(_service(rows_settings(), VertexRoutes("/", "/predict")), Log("test"))
    assert taken.handler(_exchange("/predict", "POST")).__qualname__ == "V1.predict"


def _exchange(path: str, method: str) -> Exchange:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {}

    return Exchange(Head(method, path, {}), receive)
