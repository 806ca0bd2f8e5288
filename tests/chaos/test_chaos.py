"""A few seconds of the campaign in each mode, so that each change meets a model that misbehaves.

The whole campaign: python -m tests.chaos --minutes 2
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.campaign import Plan, run
from chaos.client import CLOSED, Came
from chaos.verdict import COLLATERAL, OWN, REFUSED, RIGHT, WRONG, ask_for, judge

pytestmark = pytest.mark.xdist_group("chaos")

MODES = (("inline", 1), ("inline", 2), ("thread", 1), ("workers", 1))
SHORT = ("exit", "hang", "fork", "stranger", "print", "odd", "unspeakable", "nan", "none", "ragged", "more")


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "processes"), MODES)
def test_nobody_pays_for_another(mode: str, processes: int, tmp_path: Path) -> None:
    plan = Plan(
        mode, 3.0, seed=3, share=0.1, callers=4, kinds=SHORT, whole_pack=True, most_rate=8.0, processes=processes
    )
    report = run(plan, tmp_path)
    assert report.faults == []
    assert report.words[RIGHT] > 50
    assert report.deaths >= 2


GOOD = b'{"outputs":[{"name":"y","datatype":"FP64","shape":[2],"data":[3.0,5.0]}]}'
OTHER = b'{"outputs":[{"name":"y","datatype":"FP64","shape":[2],"data":[3.0,7.0]}]}'
NAN = b'{"outputs":[{"name":"y","datatype":"FP64","shape":[2],"data":[null,5.0]}]}'


@pytest.mark.parametrize(
    ("kind", "status", "body", "in_front", "word"),
    [
        ("", 200, GOOD, False, RIGHT),
        ("", 200, OTHER, False, WRONG),
        ("", 500, b"", True, WRONG),
        ("", 503, b"", False, REFUSED),
        ("", CLOSED, b"", True, COLLATERAL),
        ("exit", 500, b"", False, OWN),
        ("exit", CLOSED, b"", True, OWN),
        ("exit", CLOSED, b"", False, WRONG),
        ("exit", 200, GOOD, False, WRONG),
        ("hang", 504, b"", True, OWN),
        ("hang", 500, b"", False, WRONG),
        ("odd", 500, b"", False, OWN),
        ("odd", 200, OTHER, False, WRONG),
        ("fork", 500, b"", False, COLLATERAL),
        ("nan", 200, NAN, False, OWN),
        ("nan", 200, OTHER, False, WRONG),
        ("nan", 500, b"", False, WRONG),
    ],
)
def test_the_verdict_itself(kind: str, status: int, body: bytes, in_front: bool, word: str) -> None:
    asked = ask_for(kind, [1.0, 2.0], 0)
    headers = {"retry-after": "1"} if status == 503 else {}
    assert judge(asked, Came(status, headers, body, 0.0, 0.0), in_front=in_front) == word
