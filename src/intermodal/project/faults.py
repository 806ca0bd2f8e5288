"""What is wrong with a project document: every unknown key and every wrong value, worded for people.

Takes the parsed TOML and its text; hands on a list of `Fault`s, all at once, so that nobody fixes a file key by key.

Rules, in order:
1. An unknown key names the nearest valid key of its table, or the table where a key of that name belongs.
2. A wrong value names what was found and what is allowed, in words taken from the schema.
3. A value that may be a secret (`[secrets]`, `[sign]`, `api_keys`) is never repeated.
4. The line is given where a plain scan of the text finds it; a missing line is no fault.

It does no I/O and knows nothing of defaults.
"""

from __future__ import annotations

import datetime
import re
import types
import typing
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct

from intermodal.project.schema import Moment, ProjectFile, Table

Place = tuple[str | int, ...]
_SECRET = ("secrets", "sign", "api_keys")
_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    datetime.date: "a date such as 2026-11-01",
    datetime.datetime: "a date and time such as 2026-11-01T12:00:00Z",
    dict: "a table",
    list: "a list",
}


class Fault(Struct, frozen=True):
    """One thing that is wrong: `place` leads to it through the document, `line` is 0 when unknown."""

    place: Place
    message: str
    found: str
    next: str
    line: int = 0


def find_faults(document: Mapping[str, object], text: str, *, prefix: str = "") -> list[Fault]:
    """Everything in `document` that the schema does not allow, in the order of the file's tables.

    Args:
        document: the table that should be a `ProjectFile`.
        text: the file it came from, for line numbers.
        prefix: dotted name of the table that holds the document ("tool.intermodal" in a pyproject.toml).
    """
    return [
        Fault(f.place, f.message, f.found, f.next, line_of(text, f.place, prefix=prefix))
        for f in _check_table(document, ProjectFile, ())
    ]


def _check_table(document: Mapping[str, object], table: type[Table], place: Place) -> Iterator[Fault]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(table)}
    for key, value in document.items():
        if key in fields:
            yield from _check_value(value, fields[key].type, (*place, key))
        else:
            shown = f"[{key}]" if not place and isinstance(value, dict | list) else f'"{key}"'
            message = f"unknown key {shown}" + (f" in {table_name(place)}" if place else "")
            yield Fault((*place, key), message, "", _nearest(key, list(fields), place))
    for key, field in fields.items():
        if key not in document and field.required:
            yield Fault(
                (*place, key),
                f'{table_name(place)} lacks the key "{key}"',
                "",
                f"{key} = {describe(field.type)}",
            )


def _check_value(value: object, kind: object, place: Place) -> Iterator[Fault]:
    tables = [k for k in _choices(kind) if isinstance(k, type) and issubclass(k, Table)]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if tables and isinstance(value, dict):
        yield from _check_table(value, tables[0], place)
    elif origin is tuple and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _check_value(item, arguments[0], (*place, number))
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from _check_value(item, arguments[1], (*place, key))
    else:
        try:
            msgspec.convert(value, kind)
            if kind == Moment and (not isinstance(value, datetime.date) or getattr(value, "tzinfo", value) is None):
                raise msgspec.ValidationError
        except msgspec.ValidationError:
            yield Fault(place, f"wrong value for {key_name(place)}", show(value, place), describe(kind))


def _choices(kind: object) -> tuple[object, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _nearest(key: str, valid: list[str], place: Place) -> str:
    import difflib

    close = difflib.get_close_matches(key.lower().replace("-", "_"), valid, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?' if place else f"did you mean [{close[0]}]?"
    homes = [table_name(home) for home, fields in _tables() if key in fields and home != place]
    if homes:
        return f'"{key}" belongs to {" or ".join(homes)}'
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0) if place else []
    rest = ", ".join(sorted(valid))
    return f'the nearest valid key is "{near[0]}"; all of them: {rest}' if near else f"valid here: {rest}"


def _tables(table: type[Table] = ProjectFile, place: Place = ()) -> Iterator[tuple[Place, list[str]]]:
    fields = msgspec.structs.fields(table)
    if place:
        yield place, [field.encode_name for field in fields]
    for field in fields:
        for kind in _choices(field.type):
            inner = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
            if isinstance(inner, type) and issubclass(inner, Table):
                step: Place = (0,) if inner is not kind else ()
                yield from _tables(inner, (*place, field.encode_name, *step))


def describe(kind: object) -> str:
    """What a type of the schema allows, in words.

    >>> describe(bool | None)
    'true or false'
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        words = [describe(k) for k in arguments if k is not type(None)]
        return ", or ".join(dict.fromkeys(words))
    if origin is typing.Literal:
        words = [f'"{word}"' for word in arguments]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is typing.Annotated:
        return _describe_limits(arguments[0], arguments[1])
    if origin is tuple:
        inner = describe(arguments[0])
        return f"a list of {'strings' if inner == 'a string' else inner}"
    if isinstance(kind, type) and issubclass(kind, Table):
        keys = ", ".join(f.encode_name for f in msgspec.structs.fields(kind))
        return f"a table with {keys}"
    return _NAMES.get(typing.cast(type, origin or kind), "another kind of value")


def _describe_limits(kind: type, meta: msgspec.Meta) -> str:
    if meta.description:
        return meta.description
    words = describe(kind)
    if meta.gt is not None:
        return f"{words} above {meta.gt}"
    if meta.le is not None:
        return f"{words} from {meta.ge} to {meta.le}"
    return f"{words}, {meta.ge} or more"


def show(value: object, place: Place) -> str:
    """The value as a person wrote it, shortened; not shown at all where it may be a secret."""
    kind = _NAMES.get(type(value), type(value).__name__)
    if any(key in _SECRET for key in place):
        return f"{kind} (not shown)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value[:60]}{"…" if len(value) > 60 else ""}" ({kind})'
    return f"{str(value)[:60]} ({kind})" if isinstance(value, int | float | datetime.date) else kind


def table_name(place: Place) -> str:
    """The table's header: `("deploy", "steps", 0)` is "[[deploy.steps]]"."""
    if not place:
        return "the project file"
    words = ".".join(str(step) for step in place if isinstance(step, str))
    return f"[[{words}]]" if isinstance(place[-1], int) else f"[{words}]"


def key_name(place: Place) -> str:
    """A key for people: `workers in [serve]`."""
    words = [step for step in place if isinstance(step, str)]
    item = f" (item {place[-1] + 1})" if isinstance(place[-1], int) else ""
    key = words[-1] + item
    return f"{key} in {table_name(tuple(words[:-1]))}" if len(words) > 1 else f"[{words[-1]}]{item}"


_HEADER = re.compile(r"^\s*\[(\[)?\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*["']?([\w.-]+)["']?\s*=""")


def line_of(text: str, place: Place, *, prefix: str = "") -> int:
    """The line, from 1, where the last named step of `place` is written; 0 when the scan does not find it."""
    wanted = [step for step in place if isinstance(step, str)]
    index = next((step for step in place if isinstance(step, int)), None)
    start = prefix.split(".") if prefix else []
    table: list[str] = []
    seen: dict[str, int] = {}
    best = (0, 0)  # how many steps were matched, and where
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            table = [part.strip().strip("\"'") for part in header[2].split(".")]
            if header[1]:
                seen[header[2]] = seen.get(header[2], -1) + 1
            steps = table
        elif key:
            steps = [*table, *key[1].split(".")]
        else:
            continue
        array = next((name for name in seen if table == name.split(".")), None)
        if index is not None and array is not None and seen[array] != index:
            continue
        if steps[: len(start)] == start:
            own = steps[len(start) :]
            if own and own == wanted[: len(own)] and len(own) > best[0]:
                best = (len(own), number)
    return best[1]
