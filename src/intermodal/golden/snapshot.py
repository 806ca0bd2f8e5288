"""The environment of this very process: what `pack` writes beside golden cases, and the pins it derives from it.

Takes a live model, hands on plain values. Nothing is imported that the process has not imported already, but
`threadpoolctl` where it is installed, to name the BLAS.

Rules, in order:
1. A model needs the distributions whose modules its object graph names, the one that loads it, and what these declare
   to need; each pinned to the version that is installed here.
2. Where a distribution came from (PEP 610) is recorded without user names, passwords or tokens.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import pickle
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CPU_FLAGS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


class _Names(pickle.Pickler):
    """A pickler that keeps the names of classes and functions and throws the bytes away."""

    def __init__(self) -> None:
        super().__init__(_Nowhere(), protocol=5, buffer_callback=lambda _: False)
        self.names: set[tuple[str, str]] = set()

    def reducer_override(self, obj: Any) -> Any:
        kind = obj if isinstance(obj, type) or hasattr(obj, "__code__") else type(obj)
        name = getattr(kind, "__qualname__", "")
        if name:
            self.names.add((getattr(kind, "__module__", None) or "", name))
        return NotImplemented


def names_in(model: object) -> set[tuple[str, str]]:
    """Module and name of every class and function that the object graph of `model` leads to.

    Raises:
        Exception: whatever pickling raises on an object that cannot be pickled.
    """
    collector = _Names()
    collector.dump(model)
    return {(module, name) for module, name in collector.names if module not in ("", "builtins")}


def distributions_of(modules: Iterable[str]) -> set[str]:
    """The installed distributions that bring these top-level modules."""
    owners = importlib.metadata.packages_distributions()
    return {normal(name) for module in modules for name in owners.get(module.partition(".")[0], ())}


def normal(name: str) -> str:
    """A distribution's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: Iterable[str]) -> dict[str, str]:
    """The distributions with everything they declare to need, by version; what is not installed is left out."""
    from packaging.requirements import InvalidRequirement, Requirement

    found: dict[str, str] = {}
    todo = [normal(name) for name in names]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        for line in distribution.requires or ():
            try:
                need = Requirement(line)
            except InvalidRequirement:
                continue
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                todo.append(normal(need.name))
    return dict(sorted(found.items()))


def not_from_an_index(names: Iterable[str]) -> dict[str, str]:
    """Those of the distributions that were installed from a folder, an address or a repository, with that origin."""
    found = {}
    for name in names:
        origin = _origin(name)
        if origin:
            found[name] = origin
    return found


def _origin(name: str) -> str:
    try:
        text = importlib.metadata.distribution(name).read_text("direct_url.json")
        return re.sub(r"//[^/@]*@", "//", str(json.loads(text)["url"])).partition("?")[0] if text else ""
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return ""


def environment(distributions: dict[str, str]) -> dict[str, Any]:
    """What this process runs on, as `golden.json` keeps it.

    Args:
        distributions: name and version of what is imported.
    """
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{sys.platform}/{platform.machine()}",
        "distributions": distributions,
    }
    origins = not_from_an_index(distributions)
    more = {"origins": origins, "blas": _blas(), "cpu": _cpu(), "cuda": _cuda()}
    return document | {key: value for key, value in more.items() if value}


def _blas() -> list[dict[str, Any]]:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    kept = ("user_api", "internal_api", "version", "architecture")
    return [{key: pool[key] for key in kept if pool.get(key)} for pool in threadpool_info()]


def _cpu() -> dict[str, Any]:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return {}
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    document: dict[str, Any] = {"features": [flag for flag in CPU_FLAGS if flag in have]}
    return document | ({"model": model[1].strip()} if model else {})


def _cuda() -> dict[str, str]:
    found = {}
    torch = sys.modules.get("torch")
    version = getattr(getattr(torch, "version", None), "cuda", None)
    if version:
        found["runtime"] = str(version)
    try:
        text = Path("/proc/driver/nvidia/version").read_text("utf-8", "replace")
        driver = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text)
        if driver:
            found["driver"] = driver[1]
    except OSError:
        pass
    return found
