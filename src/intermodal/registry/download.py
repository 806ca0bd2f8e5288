"""One blob out of a registry: to its end over whatever breaks on the way, and nothing but the blob.

Takes the places to ask and a sink that remembers what it has; hands on nothing: when `download` returns, the sink has
exactly the bytes of the descriptor.

Rules, in order:
1. A broken transfer is continued where it stopped, from the next place that has the blob.
2. Not a byte more than the descriptor says is taken; an answer that announces another size is not read at all.
3. Wrong bytes are thrown away and fetched once more from the start (a proxy between may be damaged); then it is an
   error that names both digests.
4. Only attempts without any progress count against the patience.

Spec: OCI distribution-spec 1.1, "Pulling blobs"; RFC 9110, "Range Requests".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from intermodal.errors import DownloadError, RegistryUnreachableError, UnknownImageError
from intermodal.events import Task
from intermodal.fetch.transfer import shown
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import Digest
from intermodal.registry.client import Repository
from intermodal.registry.transport import Ask
from intermodal.registry.wire import Answer

LIES = 2
PROGRESS_BYTES = 64 << 10
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Sink(Protocol):
    """Bytes on their way into the store."""

    have: int

    @property
    def digest(self) -> Digest:
        """Of what it has."""
        ...

    def write(self, piece: bytes) -> None:
        """Take more."""
        ...

    def restart(self) -> None:
        """Throw everything away."""
        ...


class _LieError(Exception):
    """The registry sends something else than the blob."""


def download(sources: Sequence[Repository], blob: Descriptor, sink: Sink, task: Task) -> None:
    """Fill `sink` with the bytes of `blob`.

    Args:
        sources: where it may be, in order; the last one is the registry itself.
        blob: what to fetch.
        sink: what has arrived already, and takes the rest.
        task: is told every byte.

    Raises:
        DownloadError: the bytes are others than the descriptor says, also the second time.
        UnknownImageError: no source has the blob.
        RegistryUnreachableError: it did not get through, however often it was tried.
    """
    patience = sources[-1].transport.patience
    place = failures = lies = 0
    missing: set[int] = set()
    while sink.have < blob.size_bytes or sink.digest != blob.digest:
        source, before = sources[place], sink.have
        try:
            if sink.have >= blob.size_bytes:
                raise _LieError(f"the bytes are {sink.digest}")
            _transfer(source, blob, sink, task)
        except UnknownImageError:
            missing.add(place)
            if len(missing) == len(sources):
                raise
            place = next(n for n in range(len(sources)) if n not in missing)
        except RegistryUnreachableError as error:
            failures = 0 if sink.have - before >= PROGRESS_BYTES else failures + 1
            if failures >= patience.attempts * len(sources) or (error.wait_s or 0.0) > patience.most_wait_s:
                raise
            others = [n for n in (*range(place + 1, len(sources)), *range(place)) if n not in missing]
            if not others:
                patience.wait(failures, error.wait_s)
            place = others[0] if others else place
        except _LieError as lie:
            task.advance(-sink.have)
            sink.restart()
            lies += 1
            if lies >= LIES:
                raise DownloadError(
                    f"{source} sends something else than blob {blob.digest.short}",
                    found=(f"expected {blob.digest}, {blob.size_bytes} bytes", f"but {lie}"),
                    next="the registry or a proxy before it is damaged, or somebody changes what it sends",
                ) from lie


def _transfer(source: Repository, blob: Descriptor, sink: Sink, task: Task) -> None:
    """Fetch what is missing, from one place."""
    headers = {"Range": f"bytes={sink.have}-"} if sink.have else {}
    what = f"pull blob {blob.digest.short} of {source}"
    ask = Ask("GET", source.path(f"blobs/{blob.digest}"), what, source.name, source.scopes(), (200, 206, 416), headers)
    with source.transport.request(ask) as answer:
        _position(answer, blob, sink, task)
        for piece in answer.pieces():
            if sink.have + len(piece) > blob.size_bytes:
                raise _LieError(f"more than {blob.size_bytes} bytes came")
            sink.write(piece)
            task.advance(len(piece))
    if sink.have < blob.size_bytes:
        raise RegistryUnreachableError(
            f"the transfer of blob {blob.digest.short} broke off",
            found=f"{shown(answer.url)}: {sink.have} of {blob.size_bytes} bytes",
        )


def _position(answer: Answer, blob: Descriptor, sink: Sink, task: Task) -> None:
    """Let the sink stand where the answer begins, and refuse an answer that announces other bytes."""
    if answer.status == 416:
        raise _LieError(f"it has no bytes from {sink.have} on")
    if answer.status == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != sink.have or match[3] not in ("*", str(blob.size_bytes)):
            raise _LieError(f"it answers with another range: {answer.headers.get('Content-Range', '')[:60]!r}")
    elif sink.have:
        task.advance(-sink.have)
        sink.restart()
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and int(length) != blob.size_bytes - sink.have:
        raise _LieError(f"it announces {int(length)} bytes instead of {blob.size_bytes - sink.have}")
