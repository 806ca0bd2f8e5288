"""`/predict`: the plain form, for people with curl; see `front.predict` for the bodies."""

from __future__ import annotations

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.names import check_names
from intermodal_server.front.predict import format_predict, parse_predict
from intermodal_server.front.service import JSON, Answer, Routes, Service


def routes(service: Service) -> Routes:
    """POST /predict."""

    async def predict(exchange: Exchange) -> Answer:
        """The model's outputs by name."""
        exchange.protocol = "predict"
        body = await service.body(exchange)
        await check_names(body)
        tensors = parse_predict(body, service.settings)
        return 200, JSON, format_predict(await service.run(exchange, tensors))

    return {"/predict": {"POST": predict}}
