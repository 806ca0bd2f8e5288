"""Files of cloudpickle: a pickle that carries functions or classes along as byte code.

Such code runs only on the very Python version that made it, and it is code: the file is refused unless `trust` names
everything outside the allow-list, cloudpickle's own functions included.
"""

from __future__ import annotations

from msgspec.structs import replace

from intermodal.rooms.inspect.card import Finding
from intermodal.rooms.inspect.estimators import walk
from intermodal.rooms.inspect.formats.interface import Found, Opened
from intermodal.rooms.inspect.formats.pickle import looks_pickled
from intermodal.rooms.inspect.formats.pickled import describe
from intermodal.rooms.inspect.pickles.explain import escape
from intermodal.rooms.inspect.pickles.values import Global, Obj, Value

RESUME = {151: ("3.11", "3.12"), 149: ("3.13",), 128: ("3.14",)}  # opcode number of RESUME
PRECALL_311 = 166  # precedes every call in 3.11, exists in no other version
NEWER_ARGUMENTS = 18  # of CodeType from 3.11 on


class CloudpickleFormat:
    """What `cloudpickle.dump` writes when it has to take code along; otherwise it writes a plain pickle."""

    name = "cloudpickle"

    def claims(self, opened: Opened) -> bool:
        """By the cloudpickle functions it names."""
        if opened.path is None or not looks_pickled(opened):
            return False
        return any(name.module.split(".")[0] == "cloudpickle" for name in opened.reading.names)

    def read(self, opened: Opened) -> Found:
        """The estimator, and the code that comes with it."""
        reading = opened.reading
        codes = [obj for obj in walk(reading.root) if _makes_code(obj)]
        pythons = pythons_of([obj.args for obj in codes])
        names = sorted({_code_name(obj.args) for obj in codes} - {""})
        findings = list(reading.findings)
        note = Finding(
            "code-in-pickle",
            "high",
            "the file carries code" + (f" ({', '.join(names[:6])})" if names else "")
            + (f", compiled by Python {' or '.join(pythons)}" if pythons else ""),
            next="move these functions into a module of the project and save the model again with joblib",
        )  # fmt: skip
        if findings:
            findings.append(note)
        found = describe(
            opened,
            self.name,
            "joblib" if reading.wrapped_arrays or reading.compression else "cloudpickle",
            reading.root,
            reading.names,
            findings,
            requires=("cloudpickle",),
            python=pythons[0] if len(pythons) == 1 else "",
        )
        if found.safe:
            found = replace(found, findings=(note, *found.findings))
        return found


def _makes_code(obj: Obj) -> bool:
    callee = obj.callee
    if isinstance(callee, Obj) and isinstance(callee.callee, Global) and callee.callee.name == "_builtin_type":
        return callee.args[:1] == ("CodeType",)
    return isinstance(callee, Global) and callee.qualified == "types.CodeType"


def _code_name(args: tuple[Value, ...]) -> str:
    texts = [a for a in args if isinstance(a, str)]
    return escape(texts[1] if len(texts) > 1 else "", 40)


def pythons_of(codes: list[tuple[Value, ...]]) -> list[str]:
    """The Python versions that can have compiled these arguments of `CodeType`; [] when none is known.

    >>> pythons_of([])
    []
    """
    candidates: set[str] | None = None
    for args in codes:
        code = next((a for a in args if isinstance(a, bytes)), b"")
        operations = code[::2]
        here = next((set(RESUME[op]) for op in operations[:8] if op in RESUME), set())
        if len(args) < NEWER_ARGUMENTS:
            here = set()
        elif "3.11" in here and PRECALL_311 in operations:
            here = {"3.11"}
        candidates = here if candidates is None else candidates & here
    return sorted(candidates or ())
