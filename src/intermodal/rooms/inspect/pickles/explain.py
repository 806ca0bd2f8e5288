"""Findings in words: what a refused pickle would have called, and with what.

Takes incidents, hands on `Finding`s. Text from the file is shortened and its control characters are escaped, so that a
hostile file cannot write to the terminal.
"""

from __future__ import annotations

from intermodal.rooms.inspect.card import Finding, Severity
from intermodal.rooms.inspect.pickles.judge import Incident
from intermodal.rooms.inspect.pickles.values import Blob, Dict, Global, List, Obj, Value

TEXT_CHARACTERS = 120
CALL_CHARACTERS = 300
LITERAL_CHARACTERS = 600
DANGEROUS_MODULES = frozenset(
    (
        "os", "posix", "nt", "posixpath", "ntpath", "subprocess", "_posixsubprocess", "sys", "_sys",
        "importlib", "_frozen_importlib", "imp", "runpy", "pkgutil", "ctypes", "_ctypes", "cffi",
        "socket", "_socket", "socketserver", "ssl", "pty", "shutil", "webbrowser", "pickle", "_pickle",
        "cPickle", "dill", "marshal", "code", "codeop", "pdb", "bdb", "timeit", "trace", "profile",
        "cProfile", "doctest", "pydoc", "urllib", "http", "ftplib", "smtplib", "telnetlib", "requests",
        "httpx", "urllib3", "aiohttp", "pip", "ensurepip", "venv", "setuptools", "distutils", "asyncio",
        "multiprocessing", "_multiprocessing", "signal", "tempfile", "threading", "_thread", "concurrent",
        "operator", "_operator", "functools", "types", "commands", "popen2", "platform", "io", "_io",
        "site", "sysconfig", "inspect", "ast", "gc", "atexit", "joblib", "numpy.testing",
        "torch", "idlelib", "lib2to3", "fileinput", "glob", "pathlib", "zipimport", "test", "tkinter",
        "xmlrpc", "logging",
    )
)  # fmt: skip
HARMLESS_BUILTINS = frozenset(("print", "len", "sum", "min", "max", "abs", "sorted"))
RESAVE = "save it as data instead: skops.io.dump(model, 'model.skops'), or convert it to ONNX"


def escape(text: str, limit: int = TEXT_CHARACTERS) -> str:
    """`text` shortened to about `limit` characters, with control characters as escapes."""
    shown = "".join(c if c.isprintable() else c.encode("unicode-escape").decode() for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"


def literal(value: Value, depth: int = 3) -> str:
    """`value` as Python would write it, shortened as a whole and in its parts; objects as the calls that make them."""
    text = _literal(value, depth)
    return text if len(text) <= LITERAL_CHARACTERS else text[:LITERAL_CHARACTERS] + "…"


def _literal(value: Value, depth: int) -> str:
    if isinstance(value, str):
        return "'" + escape(value) + "'"
    if isinstance(value, bytes):
        return "b" + "'" + escape(value[:TEXT_CHARACTERS].decode("latin-1")) + "'"
    if isinstance(value, Blob):
        return f"<{value.size_bytes} {'characters' if value.text else 'bytes'}>"
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 256 else f"<number of {value.bit_length()} bits>"
    if isinstance(value, Global):
        return escape(value.qualified)
    if depth == 0:
        return "…"
    if isinstance(value, tuple):
        return "(" + _joined(list(value), depth) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, List):
        return "[" + _joined(value.kept, depth) + "]"
    if isinstance(value, Dict):
        pairs = [f"{_literal(k, depth - 1)}: {_literal(v, depth - 1)}" for k, v in list(value.names.items())[:4]]
        return "{" + ", ".join(pairs) + (", …" if value.total > len(pairs) else "") + "}"
    return call_text(value, depth - 1) if isinstance(value, Obj) else "…"


def _joined(values: list[Value], depth: int) -> str:
    return ", ".join(_literal(v, depth - 1) for v in values[:6]) + (", …" if len(values) > 6 else "")


def call_text(made: Obj, depth: int = 3) -> str:
    """The call that would make this object: `os.system('id')`."""
    if isinstance(made.callee, Global):
        callee = escape(made.callee.qualified)
    elif isinstance(made.callee, Obj) and depth > 0:
        callee = call_text(made.callee, depth - 1)
    else:
        callee = "(computed)"
    text = f"{callee}({_joined(list(made.args), max(depth, 1))})"
    return text if len(text) <= CALL_CHARACTERS else text[:CALL_CHARACTERS] + "…"


def is_dangerous(name: Global) -> bool:
    """Whether `name` belongs to a module that runs programs, code or network traffic."""
    if name.module in ("builtins", "__builtin__"):
        return name.name not in HARMLESS_BUILTINS
    parts = name.module.split(".")
    return any(".".join(parts[: n + 1]) in DANGEROUS_MODULES for n in range(len(parts)))


def _unknown_global(incident: Incident, name: Global) -> Finding:
    severity: Severity = "critical" if is_dangerous(name) else "high"
    if incident.note:
        message = f"loading would use {incident.note}"
    elif incident.calls:
        message = "loading would call " + " and ".join(call_text(made) for made in incident.calls[:3])
    else:
        message = f"loading would import {escape(name.qualified)}, which is not on the allow-list"
    if severity == "critical":
        advice = "do not load this file; get the model from somebody you trust"
    elif name.module == "__main__":
        advice = f"move {escape(name.name)} from the training script into a module, save again, and trust that name"
    else:
        advice = f'if you know this code: trust = ["{escape(name.qualified)}"] under [model]'
    return Finding("unknown-global", severity, message, f"byte {incident.position}", advice)


def explain(incident: Incident) -> Finding:
    """The finding that tells a person about one incident."""
    if incident.kind == "unknown-global" and isinstance(incident.subject, Global):
        return _unknown_global(incident, incident.subject)
    messages = {
        "unknown-call": f"loading would call {literal(incident.subject)}: {incident.note}",
        "unsafe-state": f"loading would set state on {literal(incident.subject)}: {incident.note}",
        "unsafe-member": f"loading would add members to {literal(incident.subject)}: {incident.note}",
        "foreign-opcode": f"the file holds {incident.note}",
    }
    return Finding(
        incident.kind, "high", messages.get(incident.kind, incident.note), f"byte {incident.position}", RESAVE
    )
