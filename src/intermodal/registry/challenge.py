"""WWW-Authenticate headers, read without trust.

Takes header values, hands on `Challenge`s. Anything that cannot be understood is left out; a request that then has no
challenge left is simply refused.

Spec: RFC 9110, "WWW-Authenticate"; distribution/distribution, "Token Authentication Specification".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

MAX_BYTES = 8192
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*)(?=\s|,|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class Challenge(Struct, frozen=True):
    """One scheme that the registry offers; names are lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all WWW-Authenticate headers of one answer, in order.

    >>> parse_challenges(['Basic realm="x"'])
    (Challenge(scheme='basic', parameters={'realm': 'x'}),)
    """
    found: list[Challenge] = []
    for value in values:
        position, text = 0, value[:MAX_BYTES]
        while match := _SCHEME.match(text, position):
            position, parameters = match.end(), {}
            while (pair := _PARAMETER.match(text, position)) is not None:
                position = pair.end()
                quoted = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
                parameters[pair[1].lower()] = quoted
            found.append(Challenge(match[1].lower(), parameters))
    return tuple(found)
