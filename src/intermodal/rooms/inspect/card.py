"""The model card: what `inspect` found, and all that later rooms know about the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

from intermodal.oci.digest import Digest
from intermodal_server.contract import Signature

Severity = Literal["info", "low", "medium", "high", "critical"]


class Finding(Struct, frozen=True):
    """Something a person should know about the artifact."""

    id: str  # stable, kebab-case: "unknown-global", "code-in-pickle"
    severity: Severity
    message: str
    where: str = ""  # file, estimator or byte offset
    next: str = ""  # what to do

    def as_json(self) -> dict[str, str]:
        """The five fields, as `--json` shows them."""
        return {
            "id": self.id,
            "severity": self.severity,
            "message": self.message,
            "where": self.where,
            "next": self.next,
        }


class Evidence(Struct, frozen=True):
    """A version that the artifact itself states, and where it says so."""

    version: str
    where: str  # "_sklearn_version '1.3.2' in 3 estimators (Pipeline, StandardScaler, …)"
    exact: bool = True  # False: only a bound or a major version ("numpy 2 or later" by module path)


class FileRow(Struct, frozen=True):
    """One file by content: of the model, the application, or the golden cases."""

    path: str  # relative to its root in the image, forward slashes
    size_bytes: int
    digest: Digest
    source: Path  # where it lies on this host; not part of its identity
    executable: bool = False


class ModelCard(Struct, frozen=True):
    """What the model is, what it needs, whether it is safe to open, what goes in and comes out.

    `versions` maps distribution names ("scikit-learn") to evidence; `requires` lists distributions that must be in
    the image even where nothing states their version. `backend`, `loader` and `call` are those of
    `intermodal_server.contract.ModelSettings`.
    """

    path: Path
    digest: Digest  # of the file, or of the sorted file list of a folder
    format: str  # pickle | joblib | cloudpickle | skops | onnx | predictor
    framework: str  # distribution name, "" when none ("scikit-learn", "onnx", "")
    backend: str
    loader: str
    call: str
    signature: Signature
    size_bytes: int
    files: tuple[FileRow, ...]
    versions: Mapping[str, Evidence]
    requires: tuple[str, ...]
    python: str  # "3.11" when the artifact says so, else ""
    imports: tuple[str, ...]  # "module.name" of everything the artifact names, sorted
    findings: tuple[Finding, ...]
    safe: bool
    containerize: str = ""  # does it pay off, and why; one sentence
    entry: str = ""  # path in `files` that the backend opens; "" when a predictor reads the folder itself

    def as_json(self) -> dict[str, object]:
        """The fields that `inspect --json` promises, and a few more."""
        return {
            "path": str(self.path),
            "digest": str(self.digest),
            "format": self.format,
            "framework": self.framework,
            "versions": {name: evidence.version for name, evidence in sorted(self.versions.items())},
            "evidence": {name: evidence.where for name, evidence in sorted(self.versions.items())},
            "requires": list(self.requires),
            "python": self.python,
            "signature": self.signature.as_json(),
            "size_bytes": self.size_bytes,
            "imports": list(self.imports),
            "findings": [finding.as_json() for finding in self.findings],
            "safe": self.safe,
            "containerize": self.containerize,
        }
