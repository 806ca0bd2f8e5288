"""One blob into a repository: mounted from a neighbour, or sent to its end over whatever breaks on the way.

Takes a file of the store and its descriptor, hands on how it got there and how many bytes were sent.

Rules, in order:
1. The bytes are hashed while they are sent, and the last piece is held back until the hash is right: a damaged file
   breaks the request off, so that no registry is ever asked to believe it.
2. One PUT carries the whole blob. When it breaks, the registry is asked how far it came, and the rest follows by
   PATCH; when it has forgotten the upload, or disagrees about its state, a new one begins.
3. Where one PUT is too large for what stands in front of the registry (413), the blob goes in chunks.
4. Only attempts without any progress count against the patience.

Spec: OCI distribution-spec 1.1, "Pushing blobs", "Mounting a blob from another repository".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

from msgspec import Struct

from intermodal.errors import RegistryError, RegistryUnreachableError, StoreError
from intermodal.events import Task
from intermodal.host.files import failure
from intermodal.oci.blob import damaged
from intermodal.oci.descriptor import Descriptor
from intermodal.registry.auth import scopes_for
from intermodal.registry.client import Repository
from intermodal.registry.pace import keep_pace
from intermodal.registry.transport import Ask
from intermodal.registry.wire import Answer

READ_BYTES = 1 << 20
SEND_BYTES = 1 << 17  # one piece must pass within the time-out of a socket
CHUNK_BYTES = 16 << 20
RESTARTS = 4


class Sent(Struct, frozen=True):
    """How a blob came into the repository."""

    how: Literal["mounted", "uploaded"]
    bytes: int  # of bodies that were sent, those that were lost included


class _Blob:
    """A file that is hashed while it is read, in pieces that can be sent."""

    def __init__(self, path: Path, blob: Descriptor, task: Task) -> None:
        self._path, self._blob, self._task = path, blob, task
        self._hash = hashlib.sha256()
        self._position = 0
        self.sent = 0
        self.reached = 0  # the furthest byte that was ever sent, so that progress is drawn once

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`; the last of the blob only when all of it is right.

        Raises:
            StoreError: the file is damaged or cannot be read.
        """
        try:
            with self._path.open("rb", buffering=0) as stream:
                self._stand(stream, start)
                buffer = bytearray(min(READ_BYTES, max(1, stop - start)))
                while self._position < stop:
                    view = memoryview(buffer)[: min(len(buffer), stop - self._position)]
                    size = stream.readinto(view)
                    if not size:
                        raise damaged(self._blob.digest, self._path)
                    self._take(view[:size])
                    yield from self._send(view[:size])
        except OSError as error:
            raise failure(f"cannot read blob {self._blob.digest.short}", self._path, error) from error

    def _stand(self, stream: BinaryIO, start: int) -> None:  # type: ignore[type-arg, unused-ignore]
        """Move to `start`, with everything before it hashed."""
        if start < self._position:
            self._hash, self._position = hashlib.sha256(), 0
        stream.seek(self._position)
        while self._position < start:
            piece = stream.read(min(READ_BYTES, start - self._position))
            if not piece:
                raise damaged(self._blob.digest, self._path)
            self._take(memoryview(piece))

    def _take(self, piece: memoryview) -> None:
        self._hash.update(piece)
        self._position += len(piece)
        if self._position == self._blob.size_bytes and self._hash.hexdigest() != self._blob.digest.hex:
            raise damaged(self._blob.digest, self._path)

    def _send(self, piece: memoryview) -> Iterator[memoryview]:
        begin = self._position - len(piece)
        for offset in range(0, len(piece), SEND_BYTES):
            part = piece[offset : offset + SEND_BYTES]
            self.sent += len(part)
            if (end := begin + offset + len(part)) > self.reached:
                self._task.advance(end - max(self.reached, begin + offset))
                self.reached = end
            yield part


class _LostError(Exception):
    """The registry no longer knows the upload, or disagrees about its state: begin anew."""


def upload(repository: Repository, path: Path, blob: Descriptor, *, mount_from: str = "", task: Task) -> Sent:
    """How `blob` came into `repository`, which holds it from now on.

    Args:
        repository: where to.
        path: the file that holds its bytes.
        blob: what they must be.
        mount_from: another repository of the same registry that may have it already; "" for none.
        task: is told every byte once.

    Raises:
        StoreError: the file is damaged.
        RegistryError: refused.
        RegistryUnreachableError: it did not get through, however often it was tried.
    """
    return _Upload(repository, _Blob(path, blob, task), blob).run(mount_from)


class _Upload:
    """One blob on its way."""

    def __init__(self, repository: Repository, source: _Blob, blob: Descriptor) -> None:
        self._repository, self._source, self._blob = repository, source, blob
        self._speed = repository.transport.speed
        self._patience = repository.transport.patience
        self._location = ""
        self._offset = 0  # what the registry is known to hold
        self._chunk = repository.transport.chunk_bytes  # bytes a request; 0 sends all at once

    def run(self, mount_from: str) -> Sent:
        """Rules 2 to 4."""
        if self._begin(mount_from):
            return Sent("mounted", 0)
        failures = restarts = 0
        while True:
            before = self._offset
            try:
                self._advance()
                return Sent("uploaded", self._source.sent)
            except RegistryUnreachableError as error:
                failures = 0 if self._offset > before else failures + 1
                too_long = (error.wait_s or 0.0) > self._patience.most_wait_s
                if failures >= self._patience.attempts or too_long:
                    raise
                self._patience.wait(failures, error.wait_s)
                try:
                    if self._ask_state():
                        return Sent("uploaded", self._source.sent)
                    failures = 0 if self._offset > before else failures
                    continue
                except _LostError as lost:
                    reason: Exception = lost
            except _LostError as lost:
                reason = lost
            except StoreError:
                self._cancel()
                raise
            restarts += 1
            if restarts > RESTARTS:
                raise RegistryUnreachableError(
                    f"cannot push blob {self._blob.digest.short} to {self._repository}",
                    found=f"the registry lost the upload {restarts} times: {reason}",
                    next="run it again; what has arrived is not sent twice",
                )
            if self._repository.has_blob(self._blob):
                return Sent("uploaded", self._source.sent)
            self._begin("")

    def _begin(self, mount_from: str) -> bool:
        """Open an upload; True when the blob was mounted instead."""
        query, scopes = "", self._repository.scopes(write=True)
        if mount_from:
            query = f"?mount={self._blob.digest}&from={mount_from}"
            scopes = scopes_for(self._repository.name, "pull", "push", mount_from=(mount_from,))
        ask = self._ask("POST", self._repository.path(f"blobs/uploads/{query}"), (201, 202), {"Content-Length": "0"})
        try:
            with self._repository.transport.request(_scoped(ask, scopes)) as answer:
                self._offset, self._location = 0, ""
                if answer.status == 201:
                    return True
                self._note(answer.headers.get("Location", ""), answer)
                least = answer.headers.get("OCI-Chunk-Min-Length", "")
                if least.isdigit() and self._chunk:
                    self._chunk = max(self._chunk, int(least))
                return False
        except RegistryError as error:
            # a login that may not read the neighbour is no reason not to push
            if not mount_from or isinstance(error, RegistryUnreachableError):
                raise
            return self._begin("")

    def _advance(self) -> None:
        """Send what the registry lacks, and close the upload."""
        size = self._blob.size_bytes
        if self._offset == 0 and not self._chunk:
            if self._put(0, size) != 413:
                return
            self._shrink()
        while self._offset < size:
            stop = min(size, self._offset + (self._chunk or size))
            if self._patch(self._offset, stop) == 413:
                if self._chunk and self._chunk <= SEND_BYTES:
                    raise RegistryError(
                        f"cannot push blob {self._blob.digest.short} to {self._repository}",
                        found=f"not even {self._chunk} bytes at once are accepted",
                        next="raise the limit of the proxy before the registry (nginx: client_max_body_size)",
                    )
                self._shrink()
        self._put(size, size)

    def _shrink(self) -> None:
        """Begin anew with smaller requests, also for the blobs that follow."""
        self._chunk = self._chunk // 4 if self._chunk else min(CHUNK_BYTES, self._blob.size_bytes // 2)
        self._repository.transport.chunk_bytes = self._chunk
        self._begin("")

    def _put(self, start: int, stop: int) -> int:
        """PUT closes the upload, with all bytes or none."""
        target = self._location + ("&" if "?" in self._location else "?") + f"digest={self._blob.digest}"
        ask = self._ask("PUT", target, (201, 200, 204, 400, 404, 413, 416), self._headers(start, stop), start, stop)
        with self._repository.transport.request(ask) as answer:
            if answer.status in (400, 404, 416):
                raise _LostError(f"it answered {answer.status} to the end of the upload")
            if answer.status != 413:
                self._offset = self._blob.size_bytes
            return answer.status

    def _patch(self, start: int, stop: int) -> int:
        headers = {**self._headers(start, stop), "Content-Range": f"{start}-{stop - 1}"}
        ask = self._ask("PATCH", self._location, (202, 204, 201, 400, 404, 413, 416), headers, start, stop)
        with self._repository.transport.request(ask) as answer:
            if answer.status in (400, 404, 416):
                raise _LostError(f"it answered {answer.status} to a part of the upload")
            if answer.status != 413:
                self._note(answer.headers.get("Location", "") or self._location, answer)
                self._offset = stop
            return answer.status

    def _ask_state(self) -> bool:
        """Learn how far the upload came; True when the blob is there already (its last answer was lost)."""
        ask = self._ask("GET", self._location, (204, 200, 202, 400, 404, 405), {})
        with self._repository.transport.request(ask) as answer:
            if answer.status in (400, 404, 405):
                raise _LostError(f"it answered {answer.status} when asked how far the upload came")
            first, _, last = answer.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if first != "0" or not last.isdigit() or int(last) >= self._blob.size_bytes:
                raise _LostError("it does not say how far the upload came")
            # "0-0" is said of an empty upload, too; one byte more or less is settled by 416
            self._offset = int(last) + 1 if int(last) else 0
            self._note(answer.headers.get("Location", "") or self._location, answer)
            return False

    def _cancel(self) -> None:
        with suppress(RegistryError):
            ask = self._ask("DELETE", self._location, tuple(range(200, 500)), {})
            with self._repository.transport.request(ask):
                pass

    def _note(self, location: str, answer: Answer) -> None:
        if not location:
            raise RegistryError(f"{self._repository} does not say where to push to", found="an answer without Location")
        self._location = self._repository.transport.locate(answer, location)

    def _headers(self, start: int, stop: int) -> dict[str, str]:
        return {"Content-Type": "application/octet-stream", "Content-Length": str(stop - start)}

    def _ask(
        self, method: str, target: str, ok: tuple[int, ...], headers: dict[str, str], start: int = 0, stop: int = 0
    ) -> Ask:
        what = f"push blob {self._blob.digest.short} to {self._repository}"
        where = str(self._repository)
        pieces = None
        if stop > start:
            pieces = lambda: keep_pace(self._source.pieces(start, stop), self._speed, where)  # noqa: E731
        scopes = self._repository.scopes(write=True)
        return Ask(method, target, what, self._repository.name, scopes, ok, headers, None, pieces, True)


def _scoped(ask: Ask, scopes: tuple[str, ...]) -> Ask:
    from msgspec.structs import replace

    return replace(ask, scopes=scopes)
