"""`golden.json` as a value: recorded requests with their responses, and where they were recorded.

Takes the file's bytes, hands on `GoldenFile`; writing it again gives the same bytes. Requests and responses are V2
bodies (JSON form), so they can be replayed by any client; floats survive because JSON numbers are written with
`repr`, which Python reads back to the same bits. NaN and None are written as null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from intermodal.errors import ArtifactError

FORMAT = 1
MAX_BYTES = 64 << 20
RecordedIn = Literal["training", "locked"]


class GoldenCase(Struct, frozen=True):
    """One recorded request and its response; tolerances override the project's."""

    name: str
    request: Mapping[str, Any]
    response: Mapping[str, Any]
    rtol: float | None = None
    atol: float | None = None


class GoldenFile(Struct, frozen=True):
    """All cases of a model.

    `environment` is what they were recorded with: `python` ("3.11.7"), `distributions` {name: version}, and for
    `pack` also platform, BLAS and CPU features.
    """

    recorded_in: RecordedIn
    environment: Mapping[str, Any]
    cases: tuple[GoldenCase, ...]

    def to_bytes(self) -> bytes:
        """The file's bytes: indented by case so that a diff is readable, keys sorted."""
        document = {
            "format": FORMAT,
            "recorded_in": self.recorded_in,
            "environment": dict(self.environment),
            "cases": [
                {
                    key: value
                    for key, value in {
                        "name": case.name,
                        "request": case.request,
                        "response": case.response,
                        "rtol": case.rtol,
                        "atol": case.atol,
                    }.items()
                    if value is not None
                }
                for case in self.cases
            ],
        }
        cases = document.pop("cases")
        head = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        assert isinstance(cases, list)
        lines = ",\n".join(
            "  " + json.dumps(case, sort_keys=True, ensure_ascii=False, allow_nan=False) for case in cases
        )
        return f'{head[:-2]},\n "cases": [\n{lines}\n ]\n}}\n'.encode()


def read_golden(path: Path) -> GoldenFile:
    """The golden cases in a file.

    Raises:
        ArtifactError: missing, larger than 64 MiB, not JSON, another format, or a field of the wrong kind.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{path.name} is too large for golden cases", found=f"more than {MAX_BYTES} bytes")
        return parse_golden(path.read_bytes(), path.name)
    except OSError as error:
        raise ArtifactError(
            f"cannot read golden cases {path.name}",
            found=error.strerror or str(error),
            next="intermodal record PATH --inputs FILE writes them",
        ) from error


def write_golden(path: Path, golden: GoldenFile) -> None:
    """Put golden cases into a file, which holds the old ones or the new ones at any moment.

    Raises:
        ArtifactError: more than 64 MiB, which no server would read.
        StoreError: it cannot be written.
    """
    data = golden.to_bytes()
    if len(data) > MAX_BYTES:
        raise ArtifactError(
            "too many golden cases", found=f"{len(data)} bytes, {MAX_BYTES} at most", next="record fewer rows"
        )
    from intermodal.host.files import write_atomically

    write_atomically(path, data)


def parse_golden(data: bytes, name: str = "golden.json") -> GoldenFile:
    """The golden cases in `data`; `name` is used in messages.

    Raises:
        ArtifactError: not JSON, another format, or a field of the wrong kind.
    """
    again = "record them again: intermodal record PATH --inputs FILE"
    try:
        document = json.loads(data)
        if document.get("format") != FORMAT:
            raise ArtifactError(f"{name} has another format", found=f"format {document.get('format')!r}", next=again)
        if document["recorded_in"] not in ("training", "locked"):
            raise ValueError(f"recorded_in is {document['recorded_in']!r}")
        cases = tuple(
            GoldenCase(str(c["name"]), dict(c["request"]), dict(c["response"]), c.get("rtol"), c.get("atol"))
            for c in document["cases"]
        )
        return GoldenFile(document["recorded_in"], dict(document.get("environment", {})), cases)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{name} is not a file of golden cases", found=str(error) or repr(error), next=again
        ) from error
