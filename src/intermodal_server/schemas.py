"""JSON Schemas of tensors: what each way of asking may send, and what it gets.

Takes the signature, hands on schemas as dictionaries and the named parts that they refer to. Standard library only:
builder and server write the same document.

Rules, in order: equal datatypes and shapes share one part, so that a hundred columns cost a hundred names and not more;
a fixed length is `minItems` and `maxItems`, a free one neither; null stands for NaN and for no text; bounds of numbers
are those at which the server refuses: where a number would round to infinity in FP32 and FP16.

Spec: JSON Schema 2020-12; Open Inference Protocol, "Tensor Data".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from intermodal_server.contract import FLOAT_DATATYPES, INTEGER_DATATYPES, TensorSpec

Schema = dict[str, Any]

FP_LIMITS: dict[str, Schema] = {
    "FP16": {"exclusiveMinimum": -65520.0, "exclusiveMaximum": 65520.0},
    "FP32": {"exclusiveMinimum": -3.4028235677973366e38, "exclusiveMaximum": 3.4028235677973366e38},
}
B64: Schema = {"type": "object", "required": ["b64"], "properties": {"b64": {"type": "string"}}}
TEXT: Schema = {"type": "string"}
ANY = "any"  # the datatype of a tensor whose type is a guess


def scalar(datatype: str) -> Schema:
    """One element; `ANY` is whatever an element can be, `B64` text or bytes as the older protocols write them."""
    if datatype in FLOAT_DATATYPES:
        return {"type": ["number", "null"], **FP_LIMITS.get(datatype, {})}
    if datatype in INTEGER_DATATYPES:
        bits = int(datatype.lstrip("UINT"))
        if datatype.startswith("U"):
            return {"type": "integer", "minimum": 0, "maximum": (1 << bits) - 1}
        return {"type": "integer", "minimum": -(1 << bits - 1), "maximum": (1 << bits - 1) - 1}
    if datatype == "BOOL":
        return {"type": "boolean"}
    if datatype == "BYTES":
        return {"type": ["string", "null"]}
    if datatype == "B64":
        return {"anyOf": [{"type": ["string", "null"]}, B64]}
    return {"type": ["number", "string", "boolean", "null"]}


def array(items: Schema, length: int = -1, least: int = 0) -> Schema:
    """A list of `length` items; -1 is any number of at least `least`."""
    if length >= 0:
        return {"type": "array", "items": items, "minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **({"minItems": least} if least else {})}


def whole(properties: dict[str, Schema], optional: Sequence[str] = ()) -> Schema:
    """An object that has all of `properties` but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", **({"required": required} if required else {}), "properties": properties}


class Parts:
    """The named parts of one document, made when they are first referred to."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def refer(self, name: str, schema: Schema) -> Schema:
        """A reference to the part of this name."""
        self.found.setdefault(name, schema)
        return {"$ref": f"#/components/schemas/{name}"}

    def scalar(self, datatype: str) -> Schema:
        """One element."""
        return self.refer(datatype, scalar(datatype))

    def nested(self, datatype: str, shape: Sequence[int], least: int = 0) -> Schema:
        """Nested lists of a shape; `least` is for the first axis."""
        if not shape:
            return self.scalar(datatype)
        axes = "".join(f"_{'n' if length < 0 else length}" for length in shape)
        items = self.nested(datatype, shape[1:])
        return self.refer(f"{datatype}{axes}{'_some' if least else ''}", array(items, shape[0], least))

    def values(self, spec: TensorSpec, b64: bool = False, least: int = 0) -> Schema:
        """A whole tensor as nested lists; a tensor of unknown rank is any list."""
        if not spec.shape:
            return self.refer("anything", {})
        return self.nested(kind(spec, b64), spec.shape, least)

    def row(self, spec: TensorSpec, b64: bool = False) -> Schema:
        """One row of a tensor."""
        return self.nested(kind(spec, b64), spec.shape[1:]) if spec.shape else self.refer("anything", {})

    def shape(self, shape: Sequence[int], least: int = 0) -> Schema:
        """The `shape` of a tensor."""
        if not shape:
            return self.refer("shape", {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 32})
        name = "shape" + "".join(f"_{'n' if length < 0 else length}" for length in shape) + ("_some" if least else "")
        free: Schema = {"type": "integer", "minimum": 0}
        first: Schema = {"type": "integer", "minimum": least}
        axes = [{"const": length} if length >= 0 else (free if place else first) for place, length in enumerate(shape)]
        if len(axes) == 1:
            return self.refer(name, array(axes[0], 1))
        return self.refer(name, {"type": "array", "prefixItems": axes, "minItems": len(axes), "maxItems": len(axes)})


def kind(spec: TensorSpec, b64: bool = False) -> str:
    """Which elements a tensor may have."""
    if spec.assumed:
        return ANY
    return "B64" if b64 and spec.datatype == "BYTES" else spec.datatype
