"""What stands for the things a pickle describes: inert values that hold no behaviour.

Numbers, short strings, short bytes, None, booleans and tuples are Python's own. Everything else is one of the classes
here, so that no hash, comparison or method of a foreign class can ever run. Lists and dictionaries keep at most
`KEPT` members (the count goes on), so that a vocabulary of millions costs little.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Value = object
Kind = Literal["class", "call", "value", "trusted", "unknown"]

KEPT = 1 << 16  # members kept of one list or dictionary
KEPT_BYTES = 1 << 16  # of one string or bytes object


class PickleFault(Exception):
    """Reading cannot go on; `position` is the byte of the (decompressed) stream."""

    def __init__(self, why: str, position: int) -> None:
        super().__init__(why)
        self.why = why
        self.position = position


class Truncated(PickleFault):
    """The stream ends inside a value."""


class Damaged(PickleFault):
    """The bytes are no pickle that any Python writes or reads."""


class LimitExceeded(PickleFault):
    """Reading on would cost more memory or time than any honest model does."""


class Hostile(PickleFault):
    """Reading cannot go on, and only somebody who hides something writes such bytes."""


class Global:
    """A name the pickle asks for, and what the allow-list says about it."""

    __slots__ = ("kind", "module", "name")

    def __init__(self, module: str, name: str, kind: Kind = "unknown") -> None:
        self.module = module
        self.name = name
        self.kind: Kind = kind

    @property
    def qualified(self) -> str:
        """`module.name`, as users write it in `trust`."""
        return f"{self.module}.{self.name}"


class Obj:
    """The result of a call that is never made: what would be called, with what, and the state set afterwards."""

    __slots__ = ("args", "builds", "callee", "kwargs", "payload", "state", "void")

    def __init__(self, callee: Value, args: tuple[Value, ...], kwargs: Value = None) -> None:
        self.callee = callee
        self.args = args
        self.kwargs = kwargs
        self.state: Value = None
        self.builds = 0
        self.payload: Value = None  # what a joblib object array holds, or members added one by one
        self.void = False  # refused once already: say so only once

    @property
    def type_name(self) -> str:
        """`module.name` of what would be called; "" when that is computed."""
        return self.callee.qualified if isinstance(self.callee, Global) else ""


class Blob:
    """A string or bytes object too long to keep."""

    __slots__ = ("head", "size_bytes", "text")

    def __init__(self, size_bytes: int, head: bytes, *, text: bool) -> None:
        self.size_bytes = size_bytes
        self.head = head
        self.text = text


class List:
    """A list, set or frozenset: the first members and how many there are."""

    __slots__ = ("kept", "total")

    def __init__(self, members: Iterable[Value] = ()) -> None:
        self.kept: list[Value] = []
        self.total = 0
        self.extend(list(members))

    def extend(self, members: list[Value]) -> None:
        """Add `members`, keeping those for which there is room."""
        room = KEPT - len(self.kept)
        if room > 0:
            self.kept.extend(members[:room])
        self.total += len(members)


class Dict:
    """A dictionary: entries under plain names, the others as pairs (never hashed), and how many there are."""

    __slots__ = ("names", "others", "total")

    def __init__(self) -> None:
        self.names: dict[str, Value] = {}
        self.others: list[tuple[Value, Value]] = []
        self.total = 0

    def set(self, key: Value, value: Value) -> None:
        """Set one entry; keys other than strings are kept in order and never compared."""
        self.total += 1
        if type(key) is str:
            if len(self.names) < KEPT or key in self.names:
                self.names[key] = value
        elif len(self.others) < KEPT:
            self.others.append((key, value))
