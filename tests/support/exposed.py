"""Independent readers of what the server tells: prometheus_client's parsers and opentelemetry-proto's messages.

They run in an environment of their own, so that neither tests nor server can lean on them.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from support.envs import training_python

REQUIREMENTS = ("prometheus-client", "opentelemetry-proto")

_READ_METRICS = """
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text
page = json.load(sys.stdin)
read = openmetrics if page["openmetrics"] else text
families = [
    {"name": f.name, "kind": f.type, "help": f.documentation,
     "samples": [{"name": s.name, "labels": s.labels, "value": repr(s.value)} for s in f.samples]}
    for f in read(page["text"])
]
json.dump(families, sys.stdout)
"""

_READ_TRACES = """
import json, sys
from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
# OTLP's JSON has ids in hexadecimal where protobuf's has base64
import base64
def based(node):
    ids = ("traceId", "spanId", "parentSpanId")
    if isinstance(node, dict):
        return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in ids else based(v) for k, v in node.items()}
    return [based(v) for v in node] if isinstance(node, list) else node
requests = [ParseDict(based(r), ExportTraceServiceRequest()) for r in json.load(sys.stdin)]
for request in requests:
    request.SerializeToString()
json.dump([MessageToDict(r, preserving_proto_field_name=True) for r in requests], sys.stdout)
"""


def _run(script: str, given: Any) -> Any:
    python = str(training_python(*REQUIREMENTS))
    done = subprocess.run([python, "-I", "-c", script], input=json.dumps(given).encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Metrics:
    """A metrics page as prometheus_client understands it."""

    families: list[dict[str, Any]]

    def kind(self, name: str) -> str:
        """The type of a family."""
        (family,) = [family for family in self.families if family["name"] == name]
        return str(family["kind"])

    def labelled(self, name: str) -> list[dict[str, str]]:
        """The label sets of every sample of this name."""
        return [sample["labels"] for family in self.families for sample in family["samples"] if sample["name"] == name]

    def value(self, name: str, **labels: str) -> float:
        """The one sample of this name that has these labels, among others; 0 when there is none."""
        found = [
            float(sample["value"])
            for family in self.families
            for sample in family["samples"]
            if sample["name"] == name and labels.items() <= sample["labels"].items()
        ]
        assert len(found) <= 1, (name, labels, found)
        return found[0] if found else 0.0

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(
            float(sample["value"])
            for family in self.families
            for sample in family["samples"]
            if sample["name"] == name and labels.items() <= sample["labels"].items()
        )


def read_metrics(text: str, *, openmetrics: bool = False) -> Metrics:
    """What a page says; fails when it is not of its format."""
    return Metrics(_run(_READ_METRICS, {"text": text, "openmetrics": openmetrics}))


def read_traces(bodies: list[Any]) -> list[dict[str, Any]]:
    """OTLP/JSON export requests through the official messages, unknown fields refused."""
    found: list[dict[str, Any]] = _run(_READ_TRACES, bodies)
    return found
