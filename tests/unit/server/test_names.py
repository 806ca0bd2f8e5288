"""Which bodies have too many different keys, and that walking them gives way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from intermodal_server.front.limits import Refusal
from intermodal_server.front.names import MAX_NAMES, STRIDE, check_names

MANY = MAX_NAMES + 1


def walk(body: bytes, end: int | None = None) -> tuple[bool, int]:
    """Whether a body is let through, and how often others had a turn meanwhile."""

    async def both() -> tuple[bool, int]:
        turns, over = 0, False

        async def others() -> None:
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        try:
            await check_names(bytearray(body), end)
            return True, turns
        except Refusal as refusal:
            assert refusal.status == 413
            return False, turns
        finally:
            over = True
            await beside

    return asyncio.run(both())


def keys(count: int, form: str = '"%d":1') -> bytes:
    return b"{%s}" % ",".join(form % number for number in range(count)).encode()


@pytest.mark.parametrize(
    "form", ['"%d":1', '"%d" \n\t:1', '"%d\\"":1', '"\\\\%d\\\\":1', '"%d":"a:b"', '"%d"' + " " * 99 + ":1"]
)
def test_as_many_keys_as_are_allowed_and_one_more(form: str) -> None:
    assert json.loads(keys(10, form))
    assert walk(keys(MAX_NAMES, form) + b"::::")[0]
    passed, turns = walk(keys(MANY, form))
    assert not passed and turns > MANY // STRIDE


def test_keys_that_differ_by_escapes_or_white_space_alone_are_different() -> None:
    for letters in (" \t", ("\\\\", '\\"')):
        made = b"{%s}" % b",".join(
            b'"%s":1' % "".join(letters[number >> bit & 1] for bit in range(18)).encode() for number in range(MANY)
        )
        assert not walk(made)[0]


@pytest.mark.parametrize(
    "honest",
    [
        {"dataframe_records": [{f"column {column}": row * 0.5 for column in range(10)} for row in range(30_000)]},
        {"inputs": [f"at {number}: what was said" for number in range(2 * MANY)]},
        {"inputs": ['"quoted": and said \\'] * (2 * MANY)},
        {"inputs": {"text": "a:b" * MANY}},
    ],
    ids=["records", "texts", "quotations", "one long text"],
)
def test_honest_bodies_are_let_through(honest: Any) -> None:
    assert walk(json.dumps(honest).encode())[0]


def test_a_binary_part_is_no_json() -> None:
    head = b'{"inputs":[]}'
    assert walk(head + keys(MANY), len(head))[0]
    assert not walk(head + keys(MANY))[0]


@pytest.mark.parametrize(
    "odd", [b'"' * 3_000_001 + b":" * MANY, b'{"a":' * MANY, b":" * (4 * MANY), b'"\\' * MANY + b":" * MANY]
)
def test_what_is_no_json_does_no_harm(odd: bytes) -> None:
    walk(odd)
