"""Read a pickle file without loading it: the object it describes, the names it uses, and what is wrong with it.

Takes the path of a plain or compressed pickle or joblib file and the names the user trusts; hands on a `Reading`.
Rules: a model file is one pickle stream, so whatever follows it is refused, and read on for what it would do; a file
that merely ends too early is an error, unless it already showed something hostile; reaching a limit is hostile.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.card import Finding
from intermodal.rooms.inspect.pickles.allowlist import AllowList
from intermodal.rooms.inspect.pickles.explain import RESAVE, explain
from intermodal.rooms.inspect.pickles.judge import Judge
from intermodal.rooms.inspect.pickles.machine import Machine
from intermodal.rooms.inspect.pickles.source import Source, open_source
from intermodal.rooms.inspect.pickles.values import Damaged, Global, PickleFault, Truncated, Value

MAX_STREAMS = 16


class Reading(Struct, frozen=True):
    """What a pickle describes; `root` is None where reading could not reach the end."""

    root: Value
    names: tuple[Global, ...]  # every name used, sorted
    findings: tuple[Finding, ...]  # all of them reasons not to load the file
    protocol: int
    compression: str  # "" | gzip | zlib | bz2 | xz | lzma
    wrapped_arrays: int  # raw arrays between the opcodes, as joblib writes them

    @property
    def safe(self) -> bool:
        """Whether loading it runs nothing but the allow-list and what the user trusts."""
        return not self.findings


def read_pickle(path: Path, trust: Iterable[str] = ()) -> Reading:
    """What the pickle at `path` would build; nothing is imported or called.

    Raises:
        ArtifactError: the file ends too early or is no pickle, and nothing hostile was seen before that.
    """
    judge = Judge(AllowList(trust))
    with path.open("rb") as stream:
        try:
            source, compression = open_source(stream, path)
            return _read(source, compression, judge, path.name)
        except OSError as error:
            raise ArtifactError(f"cannot read {path.name}", found=error.strerror or str(error)) from error


def read_stream(stream: BinaryIO, name: str, trust: Iterable[str] = ()) -> Reading:
    """The same for an open, uncompressed, seekable stream; `name` is used in messages."""
    return _read(Source(stream), "", Judge(AllowList(trust)), name)


def _read(source: Source, compression: str, judge: Judge, name: str) -> Reading:
    if compression == "lz4":
        raise ArtifactError(
            f"{name} is compressed with lz4",
            found="the image would need another package only to open it",
            next="save it again: joblib.dump(model, path, compress=3)",
        )
    root: Value = None
    extra: list[Finding] = []
    try:
        root = Machine(source, judge, arrays=True).run()
        if not source.at_end():
            extra.append(_trailing(source, judge))
    except PickleFault as fault:
        extra += _fault_finding(fault, judge, name, compression)
    names = tuple(sorted(judge.names_used.values(), key=lambda n: (n.module, n.name)))
    findings = tuple(explain(incident) for incident in judge.incidents) + tuple(extra)
    return Reading(root, names, findings, judge.protocol, compression, judge.wrapped_arrays)


def _trailing(source: Source, judge: Judge) -> Finding:
    end = source.position
    streams = 0
    try:
        while streams < MAX_STREAMS and not source.at_end():
            Machine(source, judge, arrays=True).run()
            streams += 1
        what = f"{streams} more pickle stream{'s' if streams > 1 else ''}"
    except PickleFault:
        what = f"{streams} more pickle streams and other bytes" if streams else "bytes that are no pickle"
    next_ = "save one object to one file; several models make a Pipeline, a dictionary is no model"
    return Finding("trailing-data", "high", f"the model ends, but {what} follow", f"byte {end}", next_)


def _fault_finding(fault: PickleFault, judge: Judge, name: str, compression: str) -> list[Finding]:
    where = f"byte {fault.position}" + (f" of the {compression} content" if compression else "")
    if isinstance(fault, (Truncated, Damaged)):
        if judge.incidents:
            return [Finding("unreadable-rest", "high", f"the rest cannot be read: {fault.why}", where)]
        truncated = isinstance(fault, Truncated)
        raise ArtifactError(
            f"{name} is truncated" if truncated else f"{name} is damaged",
            found=f"it ends at {where}: {fault.why}" if truncated else f"at {where}: {fault.why}",
            next="copy or download it again and compare sizes, or save the model again",
        )
    identity = "limit-exceeded" if type(fault).__name__ == "LimitExceeded" else "malformed-pickle"
    return [Finding(identity, "high", f"reading stopped: {fault.why}", where, RESAVE)]
