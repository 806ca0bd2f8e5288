"""The deployment log: what happened on this machine's targets, each line bound to the one before.

Takes facts about deployments, hands on stored lines; `broken_link` recomputes all of them.

Rules, in order:
1. A line's hash is sha256 over the hash before it and the line's own canonical JSON, so a line that was changed, taken
   out or put in breaks the chain at that place.
2. The newest number and hash are stored beside the lines, so that lines cut off at the end are noticed, too.
3. It shows tampering by accident and by people who do not write the whole file anew; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from intermodal.oci.canonical import canonical_json

FIRST = "0" * 64


class Line(Struct, frozen=True):
    """One line of the log."""

    seq: int
    body: Mapping[str, Any]  # at, target, model, what, and more by kind
    hash: str


def append(connection: sqlite3.Connection, body: Mapping[str, Any]) -> None:
    """Add a line; the caller's transaction decides whether it stays."""
    seq, previous = connection.execute("SELECT log_seq, log_hash FROM clock").fetchone()
    previous = previous or FIRST
    text = canonical_json(dict(body)).decode()
    found = _hash(previous, text)
    connection.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (seq + 1, text, previous, found))
    connection.execute("UPDATE clock SET log_seq = ?, log_hash = ?", (seq + 1, found))


def lines(connection: sqlite3.Connection, *, newest: int | None = None) -> list[Line]:
    """The lines in order; with `newest` only so many of the end."""
    limit = -1 if newest is None else newest
    rows = connection.execute("SELECT seq, body, hash FROM log ORDER BY seq DESC LIMIT ?", (limit,)).fetchall()
    return [Line(seq, json.loads(body), found) for seq, body, found in reversed(rows)]


def broken_link(connection: sqlite3.Connection) -> str:
    """The first place where the log is not what was written, in words; "" when all of it is."""
    expected, previous = 1, FIRST
    for seq, body, before, found in connection.execute("SELECT seq, body, previous, hash FROM log ORDER BY seq"):
        if seq != expected:
            return f"line {expected} is missing"
        if before != previous:
            return f"line {seq} does not follow line {seq - 1}"
        if _hash(previous, body) != found:
            return f"line {seq} was changed"
        expected, previous = seq + 1, found
    seq, newest = connection.execute("SELECT log_seq, log_hash FROM clock").fetchone()
    if seq != expected - 1:
        return f"line {expected} is missing: {seq} were written"
    return "" if not seq or newest == previous else f"line {seq} was replaced"


def _hash(previous: str, text: str) -> str:
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()
