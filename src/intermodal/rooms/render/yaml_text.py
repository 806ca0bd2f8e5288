"""YAML of plain values: maps, lists, strings, numbers, booleans.

Takes a document, hands on text that any YAML 1.1 or 1.2 reader reads as the same document. Strings are written as JSON
strings, which YAML has too; only keys that cannot be anything else stand bare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # which some readers take for other kinds


def yaml_text(document: Any, *, head: str = "") -> bytes:
    """The document as YAML.

    Args:
        document: maps and lists of strings, numbers and booleans.
        head: lines of a comment above it.

    >>> print(yaml_text({"a": [1, {"b": "c"}], "on": True}).decode(), end="")
    a:
      - 1
      - b: "c"
    "on": true
    """
    comment = [f"# {line}".rstrip() for line in head.splitlines()]
    return "\n".join([*comment, *_lines(document), ""]).encode()


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        found = []
        for key, inner in value.items():
            found += _under(f"{_key(str(key))}:", inner)
        return found
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        found = []
        for inner in value:
            lines = _lines(inner)
            found += [f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]
        return found
    return [json.dumps(value, ensure_ascii=False)]


def _under(key: str, value: Any) -> list[str]:
    lines = _lines(value)
    if isinstance(value, Mapping | list | tuple) and value:
        return [key, *(f"  {line}" for line in lines)]
    return [f"{key} {lines[0]}"]


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) and key.lower() not in _WORDS else json.dumps(key, ensure_ascii=False)
