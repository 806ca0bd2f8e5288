"""ONNX files: versions, inputs, outputs, custom operators and external data, read straight from the protobuf.

Takes the file (memory-mapped: weights are passed over), hands on names, types and shapes as the graph gives them.
Rules: external data must lie inside the model's folder; inputs that are initializers are no inputs; dimensions with a
name are -1; operators of a domain that onnxruntime does not bring are a finding.

Spec: ONNX IR, "Models", "Graphs", "External Tensor Data".
"""

from __future__ import annotations

import mmap
from pathlib import Path

from msgspec import Struct, field

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.card import Finding
from intermodal.rooms.inspect.formats.interface import Found, Opened
from intermodal.rooms.inspect.pickles.explain import escape
from intermodal.rooms.inspect.protobuf import ProtobufError, Span
from intermodal_server.contract import Signature, TensorSpec

DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64",
}  # fmt: skip
BUILT_IN_DOMAINS = frozenset(
    ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft",
     "com.microsoft.nchwc", "com.ms.internal.nhwc", "org.pytorch.aten")
)  # fmt: skip
FIRST_TAGS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # fields 2 to 8 of ModelProto
MAX_SUBGRAPHS = 32


class _Model(Struct):
    """What was collected so far."""

    ir_version: int = 0
    producer: str = ""
    producer_version: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)
    own_domains: set[str] = field(default_factory=set)
    initializers: set[str] = field(default_factory=set)
    inputs: list[tuple[str, TensorSpec | str]] = field(default_factory=list)
    outputs: list[tuple[str, TensorSpec | str]] = field(default_factory=list)
    external: set[str] = field(default_factory=set)
    has_graph: bool = False


class OnnxFormat:
    """One `.onnx` file, with or without external data beside it."""

    name = "onnx"

    def claims(self, opened: Opened) -> bool:
        """By the first two fields of ModelProto; by file name only when those are in another order."""
        head = opened.head
        if opened.path is None or not head:
            return False
        if len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 64 and head[2] in FIRST_TAGS:
            return True
        return opened.path.suffix == ".onnx" and head[0] in b"\x08" + FIRST_TAGS

    def read(self, opened: Opened) -> Found:
        """The graph's own names, types and shapes."""
        assert opened.path is not None
        name = opened.path.name
        with opened.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            model = _Model()
            try:
                _read_model(Span(buffer, 0, len(buffer)), model)
            except ProtobufError as error:
                what = "truncated" if error.truncated else "damaged"
                raise ArtifactError(
                    f"{name} is {what}", found=f"ONNX ends or breaks: {error}", next="export or copy it again"
                ) from error
        if not model.has_graph:
            raise ArtifactError(
                f"{name} holds no ONNX graph", found=f"{opened.path.stat().st_size} bytes without field 7"
            )
        findings, extra = _external(model, opened.folder, name)
        findings += _notes(model)
        return Found(
            format=self.name,
            framework="onnx",
            backend="onnx",
            loader="onnx",
            call="named",
            signature=_signature(model, name),
            findings=tuple(findings),
            safe=not any(finding.id == "external-data-outside" for finding in findings),
            requires=("numpy", "onnxruntime"),
            imports=tuple(sorted(f"operators of {escape(d)}" for d in _custom(model))),
            extra_files=tuple(extra),
        )


def _spans(span: Span, number: int) -> list[Span]:
    return [value for n, value in span.fields() if n == number and isinstance(value, Span)]


def _read_model(span: Span, model: _Model) -> None:
    for number, value in span.fields():
        if number == 1 and isinstance(value, int):
            model.ir_version = value
        elif isinstance(value, int):
            continue
        elif number == 2:
            model.producer = value.text()
        elif number == 3:
            model.producer_version = value.text()
        elif number == 7:
            model.has_graph = True
            _read_graph(value, model, 0)
        elif number == 8:
            fields = dict(value.fields())
            domain, version = fields.get(1), fields.get(2, 0)
            model.opsets[domain.text() if isinstance(domain, Span) else ""] = version if isinstance(version, int) else 0
        elif number == 25:
            model.own_domains.update(part.text() for part in _spans(value, 10))
            for node in _spans(value, 7):
                _read_node(node, model, 1)


def _read_graph(span: Span, model: _Model, depth: int) -> None:
    if depth > MAX_SUBGRAPHS:
        raise ProtobufError("graphs within graphs without end", span.start)
    for number, value in span.fields():
        if isinstance(value, int):
            continue
        if number == 1:
            _read_node(value, model, depth)
        elif number == 5:
            _read_tensor(value, model, named=depth == 0)
        elif number == 11 and depth == 0:
            model.inputs.append(_read_value(value))
        elif number == 12 and depth == 0:
            model.outputs.append(_read_value(value))


def _read_node(span: Span, model: _Model, depth: int) -> None:
    for number, value in span.fields():
        if isinstance(value, int):
            continue
        if number == 7:
            model.domains.add(value.text())
        elif number == 5:
            for attribute, part in value.fields():
                if isinstance(part, Span) and attribute in (6, 11):
                    _read_graph(part, model, depth + 1)
                elif isinstance(part, Span) and attribute in (5, 10):
                    _read_tensor(part, model, named=False)


def _read_tensor(span: Span, model: _Model, *, named: bool) -> None:
    for number, value in span.fields():
        if number == 8 and named and isinstance(value, Span):
            model.initializers.add(value.text())
        elif number == 13 and isinstance(value, Span):
            entry = {n: part.text() for n, part in value.fields() if isinstance(part, Span)}
            if entry.get(1) == "location":
                model.external.add(entry.get(2, ""))


def _read_value(span: Span) -> tuple[str, TensorSpec | str]:
    """A ValueInfoProto: its name, and the tensor or why it is none."""
    name = "".join(part.text() for part in _spans(span, 1))
    for kind in _spans(span, 2):
        for number, value in kind.fields():
            if number == 1 and isinstance(value, Span):
                return name, _tensor_spec(name, value)
            names = {4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "optional"}
            if number in names:
                return name, names[number]
    return name, "of no type"


def _tensor_spec(name: str, span: Span) -> TensorSpec | str:
    datatype = ""
    shape: tuple[int, ...] = (-1,)
    for number, value in span.fields():
        if number == 1 and isinstance(value, int):
            datatype = DATATYPES.get(value, "")
        elif number == 2 and isinstance(value, Span):
            shape = tuple(_dimension(dim) for dim in _spans(value, 1))
    if not datatype or not name:
        return "of a type that the Open Inference Protocol does not have"
    return TensorSpec(name, datatype, shape)


def _dimension(span: Span) -> int:
    lengths = [value for number, value in span.fields() if number == 1 and isinstance(value, int)]
    return lengths[-1] if lengths and lengths[-1] < 1 << 62 else -1


def _signature(model: _Model, name: str) -> Signature:
    inputs = []
    for input_name, spec in model.inputs:
        if input_name in model.initializers:
            continue
        if isinstance(spec, str):
            raise ArtifactError(f"{name} cannot be served as it is", found=f"input {escape(input_name)} is {spec}")
        inputs.append(spec)
    return Signature(tuple(inputs), tuple(spec for _, spec in model.outputs if isinstance(spec, TensorSpec)))


def _custom(model: _Model) -> list[str]:
    return sorted(model.domains - BUILT_IN_DOMAINS - model.own_domains)


def _notes(model: _Model) -> list[Finding]:
    opsets = ", ".join(f"{escape(domain) or 'ai.onnx'} {version}" for domain, version in sorted(model.opsets.items()))
    made_by = f", written by {escape(f'{model.producer} {model.producer_version}'.strip())}" if model.producer else ""
    findings = [
        Finding("onnx-model", "info", f"IR version {model.ir_version}, operators {opsets or 'of no version'}{made_by}")
    ]
    for domain in _custom(model):
        message = f"operators of {escape(domain)}, which onnxruntime does not bring"
        findings.append(
            Finding("custom-operators", "high", message, next="export with standard operators, or use a predictor")
        )
    for output_name, spec in model.outputs:
        if isinstance(spec, str):
            message = f"output {escape(output_name)} is {spec} and cannot be served"
            findings.append(Finding("unserved-output", "medium", message, next="skl2onnx: options={'zipmap': False}"))
    return findings


def _external(model: _Model, folder: Path, name: str) -> tuple[list[Finding], list[Path]]:
    """Findings about external data, and its files.

    Raises:
        ArtifactError: a file inside the folder is missing.
    """
    findings, files = [], []
    home = folder.resolve()
    for location in sorted(model.external):
        path = Path(location)
        try:
            inside = (
                (folder / path).resolve().is_relative_to(home) and not path.is_absolute() and ".." not in path.parts
            )
        except (OSError, ValueError):
            inside = False
        if not inside or not location:
            message = f"its weights lie in {escape(location)!r}, outside the model's folder"
            findings.append(
                Finding("external-data-outside", "critical", message, name, "keep the data beside the model")
            )
        elif not (folder / path).is_file():
            raise ArtifactError(
                f"{name} is incomplete",
                found=f"no file {escape(location)} beside it",
                next="copy it there, or export into one file",
            )
        else:
            files.append(folder / path)
    return findings, files
