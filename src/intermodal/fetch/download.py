"""Files by digest: fetched once, kept in the cache, never seen before their hash agrees.

Takes `Request`s (what, and where it may lie) and hands on paths by digest. Several addresses of one request are tried
in order; eight files move at a time; a broken transfer is continued, a lying one is refused.

Rules, in order:
1. What the cache holds is not fetched.
2. No more bytes are read than the request states (or 8 GiB when it states none).
3. The hash decides: a mismatch discards the bytes, and the next address is tried.
4. The first error that every address shares ends the whole call; what has arrived stays cached.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from intermodal.errors import DownloadError, HostError, IntermodalError
from intermodal.events import SILENT, Events, Task
from intermodal.fetch import cache
from intermodal.fetch.transfer import NotThereError, Transfers, shown
from intermodal.host import Host
from intermodal.oci.digest import CHUNK_BYTES, Digest

THREADS = 8
MAX_BYTES = 8 << 30
ATTEMPTS = 3


class Request(Struct, frozen=True):
    """One file to have.

    `urls` are tried in order; when all fail and `name` is set, the configured indexes are searched for that
    distribution's file. `next` is the advice shown when it cannot be found anywhere.
    """

    digest: Digest
    size_bytes: int  # 0 when unknown
    filename: str
    urls: tuple[str, ...] = ()
    name: str = ""  # distribution, for the search in indexes; "" for files of other kinds
    next: str = ""


def fetch_all(requests: Iterable[Request], *, host: Host, events: Events = SILENT) -> dict[Digest, Path]:
    """Paths of all requested files, by digest; fetched now where the cache does not hold them.

    Raises:
        DownloadError: no address has the file, or only other bytes under its name.
        IndexUnreachableError: no address could be reached.
        StoreError: the disk is full or the cache cannot be written.
    """
    wanted = {request.digest: request for request in requests}
    paths = {digest: cache.path_of(host, digest, request.filename) for digest, request in wanted.items()}
    missing = [r for r in wanted.values() if not cache.present(paths[r.digest], r.size_bytes)]
    if not missing:
        return paths
    from concurrent.futures import ThreadPoolExecutor

    total = sum(request.size_bytes for request in missing) if all(r.size_bytes for r in missing) else None
    missing.sort(key=lambda request: -request.size_bytes)
    with Transfers(host) as transfers, events.task("fetch files", total=total, unit="bytes") as task:
        pool = ThreadPoolExecutor(THREADS)
        try:
            for future in [pool.submit(_fetch, transfers, r, paths[r.digest], task) for r in missing]:
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return paths


def _fetch(transfers: Transfers, request: Request, path: Path, task: Task) -> None:
    with cache.exclusive(path):
        if cache.present(path, request.size_bytes):
            task.advance(request.size_bytes)
            return  # another process was faster
        errors: list[IntermodalError] = []
        for url in request.urls:
            try:
                _from_url(transfers, request, url, path, task)
                return
            except HostError as error:
                if not isinstance(error, DownloadError) and not error.retriable:
                    raise  # our own disk
                errors.append(error)
        if request.name:
            from intermodal.fetch.index import find_file

            found = find_file(transfers, request.name, request.filename, request.digest)
            if found and found not in request.urls:
                _from_url(transfers, request, found, path, task)
                return
        _nowhere(request, errors)


def _nowhere(request: Request, errors: list[IntermodalError]) -> None:
    reached = [error for error in errors if isinstance(error, DownloadError)]
    if errors and not reached:
        raise errors[-1]
    lying = [error for error in reached if not isinstance(error, NotThereError)]
    if lying:
        raise lying[0]
    raise DownloadError(
        f"cannot find {request.filename} any more",
        found=[line for error in errors for line in error.found]
        or [f"no configured index offers it with sha256 {request.digest.short}…"],
        next=request.next or "intermodal lock --upgrade resolves again",
    ) from (errors[-1] if errors else None)


def _from_url(transfers: Transfers, request: Request, url: str, path: Path, task: Task) -> None:
    part = path.with_name(path.name + cache.PART_SUFFIX)
    for attempt in range(ATTEMPTS):
        try:
            _transfer(transfers, request, url, part, task)
        except NotThereError:
            raise
        except DownloadError:
            if attempt + 1 == ATTEMPTS:
                raise
        else:
            part.replace(path)
            return


def _transfer(transfers: Transfers, request: Request, url: str, part: Path, task: Task) -> None:
    limit = request.size_bytes or MAX_BYTES
    with cache.storing(part.parent), part.open("r+b" if part.exists() else "w+b") as stream:
        hasher, have = _resume(stream, limit)
        if hasher.hexdigest() != request.digest.hex:  # an earlier run may have died just before the rename
            with transfers.open(url, start=have) as (pieces, offset):
                if offset != have:
                    hasher, have = hashlib.sha256(), 0
                    stream.seek(0)
                    stream.truncate()
                for piece in pieces:
                    have += len(piece)
                    if have > limit:
                        _discard(part)
                        raise DownloadError(
                            f"{request.filename} is larger than the lock says",
                            found=f"{shown(url)}: more than {limit} bytes",
                        )
                    hasher.update(piece)
                    stream.write(piece)
                    task.advance(len(piece))
        stream.flush()
        os.fsync(stream.fileno())
    if request.size_bytes and have < request.size_bytes:
        raise DownloadError(
            f"the transfer of {request.filename} broke off",
            found=f"{shown(url)}: {have} of {request.size_bytes} bytes",
            next="check the network and run it again: what has arrived is kept",
        )
    if hasher.hexdigest() != request.digest.hex:
        _discard(part)
        raise DownloadError(
            f"{request.filename} is not the file that was asked for",
            found=f"{shown(url)}: sha256 {hasher.hexdigest()[:12]}…, expected {request.digest.short}…",
            next="somebody replaced it, or a cache between is damaged: intermodal lock --upgrade resolves again",
        )


def _resume(stream: BinaryIO, limit: int) -> tuple[hashlib._Hash, int]:
    """Hash what an earlier, broken transfer left; leave the stream at its end."""
    hasher, have = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        hasher.update(chunk)
        have += len(chunk)
    if have > limit:
        stream.seek(0)
        stream.truncate()
        return hashlib.sha256(), 0
    return hasher, have


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
