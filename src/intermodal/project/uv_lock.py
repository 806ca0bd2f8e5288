"""Pins of a `uv.lock`: what the locked project itself needs, each with the markers under which it is needed.

Takes the parsed file, hands on PEP 508 lines.

Rules, in order:
1. Only what the workspace's own packages reach through `dependencies` counts: development groups do not ship.
2. A package is needed under the "or" over all ways that lead to it of the "and" over each way's markers.
3. Where the file holds several versions of one package, the dependency's `version` says which one.
4. What comes from a repository, an address or a path is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intermodal.errors import RequirementError

Way = frozenset[str]  # markers that must all hold; the empty one holds always
_LOCAL = ("virtual", "editable")
_MAX_WAYS = 64


def uv_pins(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The pins of `document`; `name` is used in messages.

    Raises:
        RequirementError: no project in it, or a package that comes from no index.
    """
    packages: list[Mapping[str, Any]] = document.get("package", [])
    roots = [p for p in packages if any(p.get("source", {}).get(kind) == "." for kind in _LOCAL)]
    if not roots:
        raise RequirementError(f"{name} has no project in it", found='no source = { virtual = "." }', next="uv lock")
    ways: dict[tuple[str, str], set[Way]] = {}
    todo: list[tuple[Mapping[str, Any], Way]] = [(root, frozenset()) for root in roots]
    while todo:
        package, way = todo.pop()
        for need, extra in _needs(package):
            further = _find(packages, need)
            ahead = way | ({need["marker"]} if need.get("marker") else set())
            key = (str(further["name"]) + extra, str(further.get("version", "")))
            known = ways.setdefault(key, set())
            if any(old <= ahead for old in known) or len(known) >= _MAX_WAYS:
                continue
            known -= {old for old in known if ahead < old}
            known.add(ahead)
            todo.append((_with_extras(further, need), ahead))
    return _lines(ways, packages, name)


def _needs(package: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    needs = list(package.get("dependencies", ()))
    for extra in package.get("wanted-extras", ()):
        needs += package.get("optional-dependencies", {}).get(extra, ())
    return [(need, f"[{','.join(need['extra'])}]" if need.get("extra") else "") for need in needs]


def _with_extras(package: Mapping[str, Any], need: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**package, "wanted-extras": need["extra"]} if need.get("extra") else package


def _find(packages: list[Mapping[str, Any]], need: Mapping[str, Any]) -> Mapping[str, Any]:
    for package in packages:
        if package.get("name") == need.get("name") and need.get("version") in (None, package.get("version")):
            return package
    raise RequirementError(
        "uv.lock is incomplete",
        found=f"{need.get('name')} is needed and not locked",
        next="uv lock writes it again",
    )


def _lines(ways: Mapping[tuple[str, str], set[Way]], packages: list[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    lines = []
    for (label, version), any_of in sorted(ways.items()):
        plain = label.partition("[")[0]
        source = next(p.get("source", {}) for p in packages if p["name"] == plain and p.get("version", "") == version)
        if "registry" not in source:
            raise RequirementError(
                f"{name} locks {plain} by {next(iter(source), 'nothing')}",
                found="only packages of an index can enter an image",
                next="publish it to an index and lock again; local code goes into [model] include",
            )
        markers = [" and ".join(f"({m})" for m in sorted(way)) for way in sorted(any_of, key=sorted)]
        marker = "" if frozenset() in any_of else " or ".join(markers)
        lines.append(f"{label}=={version}" + (f" ; {marker}" if marker else ""))
    return tuple(lines)
