"""Debian version numbers: order and relations.

Takes version strings, hands on a sort key and the answer to "does it satisfy `>= 1.2-3`". Own code, because the
libraries that do this are either GPL or large; tested against dpkg.

Spec: deb-version(7), "Sorting algorithm"; Debian Policy 7.1, "Syntax of relationship fields".
"""

from __future__ import annotations

import re
from functools import lru_cache

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")
_END = 0  # the end of a part sorts after "~" and before everything else


def _order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


@lru_cache(maxsize=65536)
def _part_key(part: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Alternating non-digits and numbers; each run of non-digits closed by the end mark."""
    pieces = [((*map(_order, text), _END), int(number or 0)) for text, number in _PARTS.findall(part) if text or number]
    return (*pieces, ((_END,), 0))


def version_key(version: str) -> tuple[int, object, object]:
    """A key that sorts versions as dpkg does.

    >>> sorted(["1.0", "1.0~rc1", "1:0.1", "1.0-1", "1.0+b1"], key=version_key)
    ['1.0~rc1', '1.0', '1.0-1', '1.0+b1', '1:0.1']
    """
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, "0"
    return int(epoch or 0) if epoch.isdigit() else 0, _part_key(upstream), _part_key(revision)


def satisfies(version: str, operator: str, wanted: str) -> bool:
    """Whether `version` stands in the relation `operator` (`<<`, `<=`, `=`, `>=`, `>>`) to `wanted`."""
    left, right = version_key(version), version_key(wanted)
    if operator in ("=", ""):
        return left == right
    if operator in (">=", ">"):
        return left >= right
    if operator in ("<=", "<"):
        return left <= right
    return left > right if operator == ">>" else left < right


def upstream(version: str) -> str:
    """The upstream part of a Debian version, without epoch and revision.

    >>> upstream("3.11.2-6+deb12u9")
    '3.11.2'
    """
    rest = version.partition(":")[2] if ":" in version else version
    return rest.rpartition("-")[0] or rest
