"""What a request may get, by what it asked the model to do; pure.

Takes what was asked and what came, hands on one word: "right" or "its own" (the error that a bad request deserves) are
as it should be; "collateral" and "refused" are counted and bounded by the campaign; "wrong" never may be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chaos.client import CLOSED, Came
from chaos.model import FIRST, INSTEAD, KINDS

RIGHT, OWN, REFUSED, COLLATERAL, WRONG = "right", "its own", "refused", "collateral", "wrong"

ENDS = {"exit", "segv", "abort", "kill", "shut"}  # the process is gone
HANGS = {"hang", "spin", "grip"}
HARMLESS = {"leak", "fork", "daemon", "stranger", "thread", "print", "mutter"}  # and answers all the same
MAY_PASS = {"ints", "text", "nested", "names", "empty", "nothing", "nan", "infinity", "set", "more", "fewer"}
# … what the model says is a tensor, if not the right one: its own caller may get it


@dataclass(frozen=True)
class Asked:
    """One request: its rows, and how the model is to misbehave ("" not at all)."""

    rows: tuple[float, ...]
    kind: str = ""

    @property
    def body(self) -> bytes:
        """As V2 JSON."""
        tensor = {"name": "x", "datatype": "FP64", "shape": [len(self.rows)], "data": list(self.rows)}
        return json.dumps({"inputs": [tensor]}).encode()


def ask_for(kind: str, rows: Sequence[float], place: int) -> Asked:
    """A request with the value that stands for `kind` among its rows."""
    changed = list(rows)
    if kind:
        changed[place % len(changed)] = FIRST + KINDS.index(kind)
    return Asked(tuple(changed), kind)


def oracle(asked: Asked) -> list[float]:
    """What the model answers to this request when it is asked alone."""
    return [value * 2 + 1 for value in asked.rows]


def values(came: Came) -> Any:
    """The numbers that came, None when there are none."""
    try:
        (output,) = json.loads(came.body)["outputs"]
    except (ValueError, KeyError, TypeError):
        return None
    return output.get("data") if output.get("name") == "y" else None


def judge(asked: Asked, came: Came, *, in_front: bool) -> str:
    """One word for what came."""
    if came.status == 200 and values(came) == oracle(asked):
        return RIGHT
    if asked.kind in HARMLESS and came.status == 504:  # too slow for its share of a batch's time, by its own doing
        return OWN
    if not asked.kind or asked.kind in HARMLESS:
        return _judge_good(asked, came)
    if asked.kind in ENDS | HANGS:
        allowed = {500} if asked.kind in ENDS else {504}
        if came.status in allowed or (in_front and came.status == CLOSED):
            return OWN
        return REFUSED if came.status == 503 else WRONG
    if came.status == 500 and asked.kind not in {"nan", "infinity"}:
        return OWN
    if came.status == 200 and asked.kind in MAY_PASS and _passable(asked, came):
        return OWN
    return _judge_good(asked, came)


def _judge_good(asked: Asked, came: Came) -> str:
    if came.status in (503, 429) and "retry-after" in came.headers:
        return REFUSED
    if came.status in (CLOSED, 500) and (came.status == CLOSED or asked.kind in HARMLESS):
        return COLLATERAL
    return WRONG


def _passable(asked: Asked, came: Came) -> bool:
    """Whether an answer of another form still says nothing false about the other rows."""
    if asked.kind not in ("nan", "infinity"):
        return asked.kind in INSTEAD
    got, right = values(came), oracle(asked)
    return (
        isinstance(got, list)
        and len(got) == len(right)
        and all(
            mine is None if value >= FIRST else math.isclose(mine, value)
            for mine, value in zip(got, right, strict=True)
        )
    )
