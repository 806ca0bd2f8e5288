"""FastAPI without its validation: orjson both ways, no thread pool; wrong bodies end in status 500."""

from __future__ import annotations

import orjson
from fastapi import FastAPI, Request, Response
from model import array, load

predict = load()
app = FastAPI()


@app.post("/predict")
async def answer(request: Request):
    """The model's answer."""
    rows = orjson.loads(await request.body())["rows"]
    return Response(orjson.dumps({"answer": predict(array(rows)).tolist()}), media_type="application/json")


@app.get("/health")
async def health():
    """Alive."""
    return Response(b'{"ok":true}', media_type="application/json")
