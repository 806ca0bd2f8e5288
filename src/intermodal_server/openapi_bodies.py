"""What each way of asking takes and answers, as JSON Schemas; the part of the OpenAPI document that is the model's own.

Takes the signature, hands on one schema for each body. Standard library only.

Rules, in order: a body is described as its dialect's parser reads it, leniency included; columns are given in the
order of the signature, although named ones may come in any; outputs that nobody knows yet are anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from intermodal_server.contract import ModelSettings, TensorSpec
from intermodal_server.schemas import TEXT, Parts, Schema, array, kind, whole

NAMED_OBJECT: Schema = {"type": ["object", "null"]}
EXAMPLE_VALUES = 64
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class Bodies:
    """The bodies of one model."""

    def __init__(self, settings: ModelSettings, outputs: Sequence[TensorSpec]) -> None:
        self.parts = Parts()
        self._inputs = settings.signature.inputs
        self._outputs = tuple(outputs)
        self._table = settings.call in ("array", "columns")
        self._least = 1 if self._table else 0
        self._rows_of = self._outputs[:1] if settings.backend == "sklearn" else self._outputs
        self._matrix = len(self._inputs) == 1 and len(self._inputs[0].shape) in (0, 2) and settings.call != "columns"

    # --- V2 -----------------------------------------------------------------------------------------------------------
    def _v2_input(self, spec: TensorSpec) -> Schema:
        shape = self.parts.shape(spec.shape, self._least)
        data = {"anyOf": [self.parts.nested(kind(spec), (-1,)), self.parts.values(spec)]}
        name = "v2_" + kind(spec) + "".join(f"_{'n' if length < 0 else length}" for length in spec.shape)
        datatype: Schema = TEXT if spec.assumed else {"const": spec.datatype}
        fields = {"shape": shape, "datatype": datatype, "data": data, "parameters": NAMED_OBJECT}
        common = self.parts.refer(name, whole(fields, ["parameters"]))
        return {"allOf": [common, whole({"name": {"const": spec.name}})]}

    def v2_request(self) -> Schema:
        """A V2 request in JSON."""
        items = [self._v2_input(spec) for spec in self._inputs]
        if len(items) == 1:
            inputs = array(items[0], 1)
        elif items:
            inputs = {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        else:
            inputs = array({"type": "object"})
        names: Schema = {"enum": [spec.name for spec in self._outputs]} if self._outputs else TEXT
        wanted = whole(
            {"name": names, "parameters": _flags(binary_data="boolean", classification="integer")}, ["parameters"]
        )
        fields = {
            "id": {"type": ["string", "null"], "maxLength": 256},
            "inputs": inputs,
            "outputs": {"type": ["array", "null"], "items": wanted, "maxItems": 1024},
            "parameters": _flags(binary_data_output="boolean"),
        }
        return whole(fields, ["id", "outputs", "parameters"])

    def v2_response(self) -> Schema:
        """A V2 answer in JSON."""
        items = []
        for spec in self._outputs:
            fields = {"datatype": {"const": spec.datatype}, "shape": self.parts.shape(spec.shape)}
            flat = {**fields, "data": self.parts.nested(kind(spec), (-1,))}
            items.append(whole({"name": {"const": spec.name}, **flat}))
        if any(spec.datatype not in ("BYTES", "BOOL") for spec in self._outputs) or not items:
            fields = {"name": TEXT, "datatype": TEXT, "shape": self.parts.shape(()), "data": {"type": "array"}}
            if items:
                fields.update(datatype={"const": "BYTES"}, data=array(TEXT))
            items.append(whole(fields))
        fields = {"model_name": TEXT, "model_version": TEXT, "id": TEXT, "outputs": array({"anyOf": items}, least=1)}
        return whole(fields, ["id"])

    # --- rows and columns ---------------------------------------------------------------------------------------------
    def _part(self, name: str, b64: bool, schema: Schema) -> Schema:
        """A part for one of two ways to write values: that of `/predict`, and that of tables and older protocols."""
        differ = b64 and any(kind(spec, True) == "B64" or spec.shape == (-1, 1) for spec in self._inputs)
        return self.parts.refer(f"table_{name}" if differ else name, schema)

    def _either(self, spec: TensorSpec, b64: bool) -> Schema:
        """A whole tensor, or one row of it without the list around it."""
        if not spec.shape:
            return self.parts.values(spec)
        forms = [self.parts.values(spec, b64, self._least), self.parts.row(spec, b64)]
        if b64 and spec.shape == (-1, 1):
            forms.append(self.parts.nested(kind(spec, b64), (-1,), self._least))
        axes = "".join(f"_{'n' if length < 0 else length}" for length in spec.shape)
        return self.parts.refer(
            f"{kind(spec, b64)}{axes}_or_row{'_of_table' if len(forms) > 2 else ''}", {"anyOf": forms}
        )

    def _named(self, b64: bool) -> Schema:
        """Columns by name."""
        columns = _closed({spec.name: self._either(spec, b64) for spec in self._inputs})
        return self._part("columns", b64, columns)

    def _record(self, b64: bool) -> Schema:
        """One row by name."""
        row = _closed({spec.name: self._cell(spec, b64) for spec in self._inputs})
        return self._part("row", b64, row)

    def _cells(self, b64: bool) -> Schema:
        """One row in the order of the signature."""
        cells = _tuple([self._cell(spec, b64) for spec in self._inputs])
        return self._part("cells", b64, cells)

    def _cell(self, spec: TensorSpec, b64: bool) -> Schema:
        row = self.parts.row(spec, b64)
        return {"anyOf": [row, self.parts.scalar(kind(spec, b64))]} if b64 and spec.shape == (-1, 1) else row

    def _instances(self, b64: bool) -> Schema:
        """Rows: objects, lists, or the bare values of one input."""
        forms = [array(self._record(b64), least=1)]
        if len(self._inputs) == 1:
            spec = self._inputs[0]
            forms.append(array(self._cell(spec, b64), least=1))
            if len(spec.shape) > 1:
                forms.append(self.parts.row(spec, b64))
        else:
            forms.append(array(self._cells(b64), least=1))
        return {"anyOf": forms}

    def _inputs_of(self, b64: bool) -> Schema:
        named = self._named(b64)
        return {"anyOf": [named, self._either(self._inputs[0], b64)]} if len(self._inputs) == 1 else named

    def predict_request(self) -> Schema:
        """`/predict`."""
        if not self._inputs:
            return {"type": "object"}
        return _one_of({"inputs": self._named(False), "instances": self._instances(False)})

    def predict_response(self) -> Schema:
        """Every output by name."""
        return whole({"outputs": whole({spec.name: self.parts.values(spec) for spec in self._outputs})})

    def _columns(self, outputs: Sequence[TensorSpec]) -> Schema:
        if not outputs:
            return {}
        if len(outputs) == 1:
            return self.parts.values(outputs[0], True)
        return whole({spec.name: self.parts.values(spec, True) for spec in outputs})

    def v1_request(self) -> Schema:
        """TensorFlow Serving's `:predict`."""
        if not self._inputs:
            return {"type": "object"}
        form = _one_of({"inputs": self._inputs_of(True), "instances": self._instances(True)})
        form["properties"]["signature_name"] = {"enum": ["", "serving_default"]}
        return form

    def v1_response(self) -> Schema:
        """`predictions` for `instances`, `outputs` for `inputs`."""
        if not self._rows_of:
            rows: Schema = {}
        elif len(self._rows_of) == 1:
            rows = self.parts.row(self._rows_of[0], True)
        else:
            rows = whole({spec.name: self.parts.row(spec, True) for spec in self._rows_of})
        return _one_of({"outputs": self._columns(self._outputs), "predictions": array(rows)})

    # --- MLflow and SageMaker -----------------------------------------------------------------------------------------
    def invocations_request(self) -> Schema:
        """`/invocations` in JSON."""
        if not self._inputs:
            return {}
        forms = {
            "dataframe_split": self._split(),
            "dataframe_records": self._records(),
            "instances": self._instances(True),
            "inputs": self._inputs_of(True),
        }
        form = _one_of(forms)
        form["properties"]["params"] = {"type": ["object", "null"], "maxProperties": 0}
        return {"anyOf": [form, self._instances(True)]}

    def invocations_response(self) -> Schema:
        """`predictions`, by column."""
        return whole({"predictions": self._columns(self._rows_of)})

    def _split(self) -> Schema:
        if self._matrix:
            spec = self._inputs[0]
            row = self.parts.row(spec, True)
            names = array({"type": ["string", "integer"]}, spec.shape[1] if spec.shape else -1)
        else:
            row = self._cells(True)
            names = {"const": [spec.name for spec in self._inputs]}
        either = {"anyOf": [names, {"type": "null"}]}
        return whole({"columns": either, "data": array(row, least=1)}, ["columns"])

    def _records(self) -> Schema:
        if not self._matrix:
            return array(self._record(True), least=1)
        spec = self._inputs[0]
        cells: Schema = {"type": "object", "additionalProperties": self.parts.scalar(kind(spec, True))}
        if spec.shape and spec.shape[1] >= 0:
            cells.update(minProperties=spec.shape[1], maxProperties=spec.shape[1])
        return array(cells, least=1)

    # --- an example ---------------------------------------------------------------------------------------------------
    def example(self) -> dict[str, Any] | None:
        """One row for `/predict`; None when it would be too long to read."""
        values = {}
        for spec in self._inputs:
            count = 1
            for length in spec.shape:
                count *= length if length > 0 else 1
            if count > EXAMPLE_VALUES:
                return None
            values[spec.name] = _filled(spec.shape or (1,), _sample(spec))
        return {"inputs": values} if values else None


def _closed(properties: dict[str, Schema]) -> Schema:
    """An object that has all of `properties` and nothing else."""
    return {**whole(properties), "additionalProperties": False}


def _sample(spec: TensorSpec) -> Any:
    if spec.datatype == "BYTES":
        return "text"
    if spec.datatype == "BOOL":
        return False
    return 0 if "INT" in spec.datatype else 0.0


def _filled(shape: Sequence[int], value: Any) -> Any:
    if not shape:
        return value
    return [_filled(shape[1:], value) for _ in range(shape[0] if shape[0] >= 0 else 1)]


def _flags(**kinds: str) -> Schema:
    fields: dict[str, Schema] = {name: {"type": of} for name, of in kinds.items()}
    for schema in fields.values():
        if schema["type"] == "integer":
            schema["minimum"] = 0
    return {**NAMED_OBJECT, "properties": fields}


def _tuple(items: list[Schema]) -> Schema:
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _one_of(forms: dict[str, Schema]) -> Schema:
    """An object with exactly one of these fields."""
    return {"type": "object", "properties": dict(forms), "oneOf": [{"required": [name]} for name in forms]}
