"""API keys of the server: a new one, and a file of them as a variable holds it.

Takes a name or a file, hands on values; the file of `[serve] api_keys` has a line `name:sha256` for each key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from msgspec import Struct

from intermodal.errors import InputError

PREFIX = "im_"  # so that scanners for secrets can know one when they see it
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_LINE = re.compile(rf"{NAME.pattern}:[0-9A-Fa-f]{{64}}")


class ApiKey(Struct, frozen=True):
    """A new key: for its owner, and as the server's file knows it."""

    name: str
    key: str
    line: str


def make_key(name: str) -> ApiKey:
    """A key of 256 random bits.

    Raises:
        InputError: `name` could not stand in the file.
    """
    if NAME.fullmatch(name) is None:
        raise InputError(
            "this cannot be the name of an API key", found=repr(name[:80]), next="letters, digits, . _ @ -, at most 64"
        )
    key = PREFIX + secrets.token_urlsafe(32)
    return ApiKey(name, key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}")


def as_variable(path: Path) -> str:
    """The keys of a file as INTERMODAL_API_KEYS takes them without a file.

    Raises:
        InputError: the file cannot be read, or a line is not `name:sha256`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path.name}", found=str(error)) from error
    return variable_of(content, path.name)


def variable_of(content: bytes, name: str) -> str:
    """The same of a file's content.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        InputError: a line is not `name:sha256`, or there is none.
    """
    try:
        lines = [line.strip() for line in content.decode().splitlines()]
    except ValueError as error:
        raise InputError(f"cannot read {name}", found=str(error)) from error
    lines = [line for line in lines if line and not line.startswith("#")]
    wrong = [str(number) for number, line in enumerate(lines, 1) if _LINE.fullmatch(line) is None]
    if wrong or not lines:
        what = f"entry {', '.join(wrong[:5])} is of another form (not shown)" if wrong else "no key"
        raise InputError(f"{name} does not hold API keys", found=what, next="intermodal apikey NAME makes a line")
    return "keys:" + ",".join(lines)


def knows(variable: str, key: str) -> bool:
    """Whether a key is among those of a variable."""
    return f":{hashlib.sha256(key.encode()).hexdigest()}" in variable.lower()
