"""A skops schema as the object graph that pickles give: one node kind after another, nothing imported.

Every node names a class; each is judged by the allow-list, because skops would import it. Node kinds that call
functions or that are unknown here are findings.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from typing import Any

from intermodal.rooms.inspect.card import Finding, Severity
from intermodal.rooms.inspect.pickles.allowlist import AllowList
from intermodal.rooms.inspect.pickles.explain import escape, is_dangerous
from intermodal.rooms.inspect.pickles.values import Dict, Global, List, Obj, Value

MAX_DEPTH = 100
MAX_NODES = 5_000_000
MAX_FINDINGS = 50
HEADER_BYTES = 16 << 10
_DESCR = re.compile(r"'descr': '[<>|=]?([a-zA-Z]\d+)'")
_SHAPE = re.compile(r"'shape': \(([\d, ]*)\)")
DATA_NODES = frozenset(
    (
        "ObjectNode", "ReduceNode", "TreeNode", "LossNode", "CriterionNode", "ConstructorFromReduceNode", "SGDNode",
        "ListNode", "TupleNode", "SetNode", "DictNode", "DefaultDictNode", "JsonNode", "TypeNode", "DTypeNode",
        "SliceNode", "NdArrayNode", "MaskedArrayNode", "RandomStateNode", "RandomGeneratorNode", "SparseMatrixNode",
        "BytesNode", "BytearrayNode", "FunctionNode", "_DictWithDeprecatedKeysNode", "DatetimeNode", "TimedeltaNode",
        "DateNode", "TimeNode",
    )
)  # fmt: skip
ARRAY = Global("numpy.core.multiarray", "_reconstruct", "call")
DTYPE = Global("numpy", "dtype", "call")


class SchemaError(Exception):
    """The schema is not as skops writes it."""


class Graph:
    """Turns schema nodes into values; `findings` are reasons not to load the file."""

    def __init__(self, archive: zipfile.ZipFile, trust: Iterable[str]) -> None:
        self._archive = archive
        self._allow = AllowList(trust)
        self._names: dict[tuple[str, str], Global] = {}
        self._nodes = 0
        self.findings: list[Finding] = []

    def names(self) -> tuple[Global, ...]:
        """Every class and function the schema names, sorted."""
        return tuple(self._names[key] for key in sorted(self._names))

    def value(self, node: Any, depth: int = 0) -> Value:
        """What stands for one node.

        Raises:
            SchemaError: it is no node of skops.
        """
        self._nodes += 1
        if not isinstance(node, dict) or depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise SchemaError("a node is no object, or nested too deep")
        loader, name = node.get("__loader__"), self._name(node)
        if loader not in DATA_NODES and name.kind != "trusted":
            self._report(
                "unknown-node", "high", f"loading would run a {escape(str(loader), 60)} of {escape(name.qualified)}"
            )
        content = node.get("content")
        if loader == "JsonNode":
            return self._json(content)
        if loader == "NdArrayNode":
            return self._array(node, depth)
        if loader in ("TypeNode", "FunctionNode"):
            return name
        if loader in ("ListNode", "SetNode"):
            return List([self.value(member, depth + 1) for member in self._members(content)])
        if loader == "TupleNode":
            return tuple([self.value(member, depth + 1) for member in self._members(content)])
        if loader in ("DictNode", "_DictWithDeprecatedKeysNode"):
            return self._dict(content, depth)
        made = Obj(name, ())
        made.state = self._any(content, depth + 1)
        made.builds = 1
        made.payload = self._any(node.get("__reduce__"), depth + 1)
        return made

    def _any(self, content: Any, depth: int) -> Value:
        """A node, or a plain object or list of nodes, as some node kinds hold them."""
        if isinstance(content, dict):
            if "__loader__" in content:
                return self.value(content, depth)
            if depth > MAX_DEPTH:
                raise SchemaError("nested too deep")
            found = Dict()
            for key, member in content.items():
                found.set(key, self._any(member, depth + 1))
            return found
        return None

    def _members(self, content: Any) -> list[Any]:
        if not isinstance(content, list):
            raise SchemaError("a list node without a list")
        return content

    def _name(self, node: dict[str, Any]) -> Global:
        module, name = node.get("__module__"), node.get("__class__")
        if not isinstance(module, str) or not isinstance(name, str):
            raise SchemaError("a node without a class")
        found = self._names.get((module, name))
        if found is None:
            found = self._names[module, name] = Global(module, name, self._allow.kind(module, name))
            if found.kind == "unknown":
                severity: Severity = "critical" if is_dangerous(found) else "high"
                self._report("unknown-global", severity, f"loading would import {escape(found.qualified)}")
        return found

    def _report(self, identity: str, severity: Severity, message: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            advice = "do not load this file, or name what you know under [model] trust"
            self.findings.append(Finding(identity, severity, message, "schema.json", advice))

    def _dict(self, content: Any, depth: int) -> Dict:
        if not isinstance(content, dict):
            raise SchemaError("a dict node without a dict")
        found = Dict()
        for key, member in content.items():
            found.set(key, self.value(member, depth + 1))
        return found

    def _json(self, content: Any) -> Value:
        value = json.loads(content) if isinstance(content, str) else content
        if isinstance(value, (str, int, float, bool)) or value is None:
            return value
        return List(value) if isinstance(value, list) else Dict()

    def _array(self, node: dict[str, Any], depth: int) -> Value:
        made = Obj(ARRAY, ())
        made.builds = 1
        if node.get("type") == "json":
            members = List([self.value(member, depth + 1) for member in self._flat(node.get("content"), 0)])
            shape = self.value(node["shape"], depth + 1) if isinstance(node.get("shape"), dict) else (members.total,)
            made.state = (1, shape, Obj(DTYPE, ("O8",)), False, members)
            return made
        file = node.get("file")
        if not isinstance(file, str):
            raise SchemaError("an array without its file")
        with self._archive.open(file) as stream:
            head = stream.read(HEADER_BYTES).decode("latin-1")
        if not head.startswith("\x93NUMPY"):
            raise SchemaError(f"{file[:60]!r} is no .npy file")
        descr, shape_text = _DESCR.search(head), _SHAPE.search(head)
        if shape_text is None:
            raise SchemaError(f"{file[:60]!r} has no shape")
        if descr is not None and descr[1].startswith("O"):
            self._report("object-array", "high", f"{escape(file, 60)} holds pickled objects")
        numbers = tuple(int(n) for n in shape_text[1].split(",") if n.strip())
        made.state = (1, numbers, Obj(DTYPE, (descr[1] if descr else "V8",)), False, b"")
        return made

    def _flat(self, content: Any, depth: int) -> list[Any]:
        members: list[Any] = []
        for member in self._members(content):
            if isinstance(member, list) and depth < MAX_DEPTH:
                members += self._flat(member, depth + 1)
            else:
                members.append(member)
        return members
