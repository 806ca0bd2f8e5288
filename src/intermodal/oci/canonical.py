"""Canonical JSON: equal values are equal bytes, so that documents have stable digests."""

from __future__ import annotations

import json


def canonical_json(value: object) -> bytes:
    """`value` with sorted keys and no spaces, in UTF-8.

    >>> canonical_json({"b": 1, "a": "ä"}).decode()
    '{"a":"ä","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
