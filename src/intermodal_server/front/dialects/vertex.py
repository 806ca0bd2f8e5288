"""Vertex AI: the health and predict routes that `AIP_HEALTH_ROUTE` and `AIP_PREDICT_ROUTE` name.

Bodies are those of V1: `{"instances": […]}` in, `{"predictions": […]}` out; `parameters` must be empty.
Rules, in order: without the variables nothing is added; a path that another dialect has keeps that dialect's form, so
`/v2/models/M/infer` stays V2, except `/predict` and `/`, which then are Vertex's.

Spec: Vertex AI, "Custom container requirements for prediction".
"""

from __future__ import annotations

from intermodal_server.front.dialects.v1 import V1
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.service import Answer, Routes, Service, json_answer

OURS = ("/predict", "/")


def routes(service: Service, known: Routes) -> Routes:
    """The two routes, as far as they are wanted.

    Args:
        service: the model.
        known: the paths of all other dialects.
    """

    async def health(_: Exchange) -> Answer:
        """Whether requests should come."""
        body = service.health_body()
        return json_answer(200 if body["ready"] else 503, body)

    found: Routes = {}
    for path, method, handler in (
        (service.vertex.health, "GET", health),
        (service.vertex.predict, "POST", V1(service).predict),
    ):
        if path and (path not in known or path in OURS):
            found.setdefault(path, {})[method] = handler
    return found
