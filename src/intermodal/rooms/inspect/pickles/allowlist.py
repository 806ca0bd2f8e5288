"""The names a pickle may use, exactly, and what it may do with each.

`allowlist.txt` beside this file holds lines of `kind module name …`:

    class   may be made by NEWOBJ, so that its `__init__` never runs, and given its state
    call    a function or type that pickles call to rebuild an object (REDUCE)
    value   may be held, never called (score functions, ufuncs, types as parameters)

Its scikit-learn and NumPy lines are written by `tests/hostile/pickles/regenerate_allowlist.py` from installed
packages; nothing is imported when a model is inspected.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

from intermodal.rooms.inspect.pickles.values import Kind

FILE = Path(__file__).with_name("allowlist.txt")
KINDS: dict[str, Kind] = {"class": "class", "call": "call", "value": "value"}


@functools.cache
def _listed() -> Mapping[str, Mapping[str, Kind]]:
    table: dict[str, dict[str, Kind]] = {}
    for line in FILE.read_text(encoding="ascii").splitlines():
        words = line.split()
        if words and not line.startswith("#"):
            table.setdefault(words[1], {}).update(dict.fromkeys(words[2:], KINDS[words[0]]))
    return table


class AllowList:
    """The shipped list plus the names a project trusts."""

    def __init__(self, trust: Iterable[str] = ()) -> None:
        self._trust = frozenset(trust)
        self._table = _listed()

    def kind(self, module: str, name: str) -> Kind:
        """What may be done with `module.name`; "unknown" for everything that stands nowhere."""
        if f"{module}.{name}" in self._trust:
            return "trusted"
        return self._table.get(module, {}).get(name, "unknown")
