"""What a pickle may do, rule by rule, and a record of everything it tried beyond that.

The machine asks before each step; the judge never stops it, so that one reading tells all. The rules, in the order of
the code below:

1. A name must stand on the allow-list or in `trust`, exactly; a computed name never does.
2. Only a name itself may be called, never the result of a call. A listed class may only be made without its
   constructor (NEWOBJ); a rebuilding function may be called, but gets names only of its own package, and no codec or
   length that pickle itself would not write. The joblib wrapper is made directly or not at all: an object of it from
   elsewhere would move joblib's place in the file without our noticing.
3. State may be set only on what a call made, once, and under no name that begins with two underscores: a second
   BUILD would call the `__setstate__` that the first one planted.
4. Members may be added only to lists, dictionaries, sets, and the few classes that are such.
5. Persistent ids, extension codes and out-of-band buffers belong to no model file.

What the user trusts is free of rules 2 to 4.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from intermodal.rooms.inspect.pickles.allowlist import AllowList
from intermodal.rooms.inspect.pickles.values import Dict, Global, List, Obj, Value

IncidentKind = Literal["unknown-global", "unknown-call", "unsafe-state", "unsafe-member", "foreign-opcode"]
CONTAINERS = frozenset(
    (
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "collections.Counter",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils.Bunch",
    )
)
ARRAY_WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
MAX_INCIDENTS = 200


class Incident(Struct):
    """Something beyond the rules: what, where, and the value to show."""

    kind: IncidentKind
    subject: Value
    position: int
    calls: list[Obj] = field(default_factory=list)  # of an unknown global: the calls made to it
    note: str = ""


class Judge:
    """Applies the rules to one artifact; `incidents` is what it found, `names_used` every name asked for."""

    def __init__(self, allow: AllowList) -> None:
        self.allow = allow
        self.incidents: list[Incident] = []
        self.names_used: dict[tuple[str, str], Global] = {}
        self.protocol = 0
        self.wrapped_arrays = 0

    def _report(self, kind: IncidentKind, subject: Value, position: int, note: str = "") -> None:
        if len(self.incidents) < MAX_INCIDENTS:
            self.incidents.append(Incident(kind, subject, position, note=note))

    # rule 1

    def names(self, module: Value, name: Value, protocol: int, position: int) -> Global:
        """The name the pickle asks for, judged; the same object for the same name."""
        self.protocol = max(self.protocol, protocol)
        if type(module) is not str or type(name) is not str:
            unknown = Global("<computed>", "<computed>")
            self._report("unknown-global", unknown, position, "a name computed while loading")
            return unknown
        if protocol < 3:
            module, name = _python3_name(module, name)
        found = self.names_used.get((module, name))
        if found is None:
            found = Global(module, name, self.allow.kind(module, name))
            self.names_used[module, name] = found
            if found.kind == "unknown":
                self._report("unknown-global", found, position)
        return found

    # rule 2

    def calls(self, callee: Value, args: Value, kwargs: Value, position: int, *, new: bool) -> Obj:
        """What stands for the result of a call."""
        if isinstance(args, tuple):
            made = Obj(callee, args, kwargs)
        else:
            made = Obj(callee, (args,), kwargs)
            self._report("unknown-call", made, position, "arguments computed while loading")
        if _is_trusted(callee):
            return made
        if not isinstance(callee, Global):
            made.void = True
            if not (isinstance(callee, Obj) and callee.void):
                self._report("unknown-call", made, position, "a callable computed while loading")
        elif callee.kind == "unknown":
            made.void = True
            self._remember_call(callee, made)
        else:
            note = _call_fault(callee, made, new=new)
            if note:
                self._report("unknown-call", made, position, note)
            elif callee.qualified == "copyreg._reconstructor":
                return Obj(made.args[0], ())  # what object.__new__ of that class makes
        return made

    def _remember_call(self, callee: Global, made: Obj) -> None:
        for incident in self.incidents:
            if incident.subject is callee and len(incident.calls) < 8:
                incident.calls.append(made)

    # rule 3

    def builds(self, target: Value, state: Value, position: int) -> None:
        """Judge setting `state` on `target`."""
        if not isinstance(target, Obj):
            self._report("unsafe-state", target, position, "state is set on something that no call made")
            return
        if target.void or _is_trusted(target):
            return
        if target.builds:
            self._report("unsafe-state", target, position, "state is set twice")
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for part in parts:
            if isinstance(part, Dict):
                hidden = [name for name in part.names if name.startswith("__")]
                if hidden or part.total > len(part.names) + len(part.others):
                    note = f"state sets {hidden[0]!r}" if hidden else "state with more names than any object has"
                    self._report("unsafe-state", target, position, note)

    # rule 4

    def adds(self, target: Value, members: list[Value], position: int) -> None:
        """Judge adding members to something that is no plain list, dictionary or set."""
        if isinstance(target, Obj):
            if target.void or target.type_name in CONTAINERS or _is_trusted(target):
                return
            if target.type_name in ("builtins.set", "builtins.bytearray"):
                return
        note = "a method of it is called with what should be members"
        self._report("unsafe-member", target, position, note if members else "members are added to it")

    # rule 5

    def foreign(self, what: str, value: Value, position: int) -> Obj:
        """Something resolved by a table that only the loading process has."""
        made = Obj(Global("<foreign>", what), (value,))
        made.void = True
        self._report("foreign-opcode", made, position, f"{what}, which no model file holds")
        return made

    def wraps_array(self, callee: Global) -> bool:
        """Whether joblib reads raw array bytes behind an object of this class; counts them."""
        if (callee.module, callee.name) != ARRAY_WRAPPER:
            return False
        self.wrapped_arrays += 1
        return True


def _python3_name(module: str, name: str) -> tuple[str, str]:
    # both unpicklers translate Python 2 names below protocol 3; judging the untranslated name would be a bypass
    import _compat_pickle

    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def _is_trusted(value: Value) -> bool:
    """Whether a trusted name stands at the root of how `value` is made."""
    for _ in range(64):
        if isinstance(value, Global):
            return value.kind == "trusted"
        if not isinstance(value, Obj):
            return False
        value = value.callee
    return False


def _call_fault(callee: Global, made: Obj, *, new: bool) -> str:
    """Why a listed name may not be called like this; "" when it may."""
    if callee.kind == "value":
        return "a name that may only be held is called"
    name, args = callee.qualified, made.args
    if name == "copyreg._reconstructor":
        plain = (
            len(args) == 3
            and isinstance(args[0], Global)
            and args[0].kind in ("class", "trusted", "unknown")
            and isinstance(args[1], Global)
            and args[1].qualified == "builtins.object"
            and args[2] is None
        )
        return "" if plain else "an object is rebuilt from another base than object"
    names = _names_in((args, made.kwargs))
    if any((used.module, used.name) == ARRAY_WRAPPER for used in names):
        return "joblib's array wrapper is handed on"
    if callee.kind == "class":
        return "" if new else "a class is called instead of being made"
    package = callee.module.split(".")[0]
    if package != "collections" and any(used.module.split(".")[0] != package for used in names):
        return "a rebuilding function gets a name of another package"
    return _value_fault(name, args)


def _value_fault(name: str, args: tuple[Value, ...]) -> str:
    if name == "_codecs.encode":
        return "" if len(args) == 2 and args[1] in ("latin1", "latin-1") else "bytes through another codec than latin1"
    if name in ("builtins.bytearray", "builtins.bytes"):
        return "a buffer is made by its length" if args and isinstance(args[0], int) else ""
    if name.endswith("__generator_ctor") and len(args) > 1:
        plain = isinstance(args[1], Global) and args[1].name == "__bit_generator_ctor"
        return "" if plain else "a generator is made by another function than NumPy's"
    return ""


def _names_in(value: Value, depth: int = 3) -> list[Global]:
    if isinstance(value, Global):
        return [value]
    if depth == 0:
        return []
    if isinstance(value, tuple):
        members = list(value)
    elif isinstance(value, List):
        members = value.kept
    elif isinstance(value, Dict):
        members = list(value.names.values())
    else:
        return []
    return [name for member in members[:1000] for name in _names_in(member, depth - 1)]


def members_of(value: Value) -> list[Value]:
    """What a list, set or container object holds, as far as kept."""
    if isinstance(value, List):
        return value.kept
    if isinstance(value, Obj) and isinstance(value.payload, List):
        return value.payload.kept
    return []
