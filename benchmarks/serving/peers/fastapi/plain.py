"""FastAPI as its tutorial has it: a typed body, a plain function that FastAPI runs in its thread pool."""

from __future__ import annotations

from fastapi import FastAPI
from model import array, load
from pydantic import BaseModel

predict = load()
app = FastAPI()


class Body(BaseModel):
    """Rows of 64 numbers."""

    rows: list[list[float]]


@app.post("/predict")
def answer(body: Body):
    """The model's answer."""
    return {"answer": predict(array(body.rows)).tolist()}


@app.get("/health")
async def health():
    """Alive."""
    return {"ok": True}
