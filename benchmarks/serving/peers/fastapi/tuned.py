"""FastAPI at its best with what it is used for, a typed body: no thread pool, the answer written by orjson."""

from __future__ import annotations

import orjson
from fastapi import FastAPI, Response
from model import array, load
from pydantic import BaseModel

predict = load()
app = FastAPI()


class Body(BaseModel):
    """Rows of 64 numbers."""

    rows: list[list[float]]


@app.post("/predict")
async def answer(body: Body):
    """The model's answer."""
    return Response(orjson.dumps({"answer": predict(array(body.rows)).tolist()}), media_type="application/json")


@app.get("/health")
async def health():
    """Alive."""
    return Response(b'{"ok":true}', media_type="application/json")
