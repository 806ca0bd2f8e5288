"""skops files: a zip with `schema.json` and arrays; types are listed, never loaded.

Takes the archive, hands on the same object graph that pickles give. Rules: member names stay inside the archive;
sizes and ratios are bounded before anything is unpacked; every type named in the schema must stand on the allow-list
or in `trust`, because skops would import it.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from typing import Any

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.card import Evidence, Finding
from intermodal.rooms.inspect.formats.interface import Found, Opened
from intermodal.rooms.inspect.formats.pickled import describe
from intermodal.rooms.inspect.formats.skops_graph import Graph, SchemaError

MAX_SCHEMA_BYTES = 64 << 20
MAX_MEMBERS = 100_000
MAX_RATIO = 1100  # of deflate
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGED = "save it again: skops.io.dump(model, 'model.skops')"
# What zipfile lets through of a damaged archive.
FAILURES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


class SkopsFormat:
    """What `skops.io.dump` writes."""

    name = "skops"

    def claims(self, opened: Opened) -> bool:
        """A zip that holds schema.json."""
        if opened.path is None or not opened.head.startswith(b"PK"):
            return False
        try:
            with zipfile.ZipFile(opened.path) as archive:
                return "schema.json" in archive.NameToInfo
        except (*FAILURES, ValueError):
            return opened.path.suffix == ".skops"

    def read(self, opened: Opened) -> Found:
        """The estimator the schema describes."""
        assert opened.path is not None
        name = opened.path.name
        try:
            with zipfile.ZipFile(opened.path) as archive:
                _check_methods(archive, name)
                findings = _archive_findings(archive)
                schema = _schema(archive)
                graph = Graph(archive, opened.trust)
                root = graph.value(schema)
        except (SchemaError, ValueError, KeyError, RecursionError) as error:
            raise ArtifactError(
                f"{name} has a schema.json that cannot be read", found=str(error)[:200], next=DAMAGED
            ) from error
        except FAILURES as error:
            raise ArtifactError(f"{name} is truncated or damaged", found=str(error), next=DAMAGED) from error
        found = describe(opened, self.name, "skops", root, graph.names(), (*findings, *graph.findings),
                         requires=("skops",))  # fmt: skip
        version = schema.get("_skops_version")
        if isinstance(version, str) and len(version) < 40 and version.isprintable():
            found.versions["skops"] = Evidence(version, f"_skops_version '{version}' in schema.json", exact=False)
        return found


def _check_methods(archive: zipfile.ZipFile, name: str) -> None:
    # zipfile unpacks bzip2 and LZMA without any bound on memory: a dictionary alone may ask for 4 GB
    other = [member for member in archive.infolist() if member.compress_type not in METHODS]
    if other:
        raise ArtifactError(
            f"{name} is compressed in a way that cannot be read in bounded memory",
            found=f"{other[0].filename[:100]!r} by method {other[0].compress_type}; 0 and 8 are read",
            next="save it again: skops.io.dump(model, 'model.skops', compression=zipfile.ZIP_DEFLATED)",
        )


def _archive_findings(archive: zipfile.ZipFile) -> list[Finding]:
    members = archive.infolist()
    findings = []
    if len(members) > MAX_MEMBERS:
        findings.append(Finding("limit-exceeded", "high", f"the archive has {len(members)} members"))
    seen: set[str] = set()
    for member in members:
        path = member.filename
        if path.startswith("/") or "\\" in path or ".." in path.split("/") or path in seen:
            findings.append(
                Finding("unsafe-path", "high", f"the archive holds {path[:100]!r}, twice or outside itself")
            )
        seen.add(path)
        if member.file_size > max(1 << 20, member.compress_size * MAX_RATIO):
            findings.append(Finding("limit-exceeded", "high", f"{path[:100]!r} promises {member.file_size} bytes"))
    return findings[:50]


def _schema(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo("schema.json").file_size > MAX_SCHEMA_BYTES:
        raise SchemaError("schema.json is larger than any honest one")
    with archive.open("schema.json") as stream:
        document = json.loads(stream.read(MAX_SCHEMA_BYTES))
    if not isinstance(document, dict):
        raise SchemaError("schema.json holds no object")
    return document
