"""A small HTTP server for the metrics port: a few pages, read only, in the front's own event loop.

Takes pages by path, hands on answers. It shares the loop with requests to the model, hence:

Rules, in order:
1. A page is made in pieces, and other work runs between two of them; one page is made at a time.
2. GET and HEAD without a body, heads up to 8 KiB, `MAX_CONNECTIONS` at once (one more ends the oldest), none silent for
   more than `IDLE_S`.
3. An address that is taken is tried again every `RETRY_S` and one warning after `PATIENCE_S`: the server goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Callable, Optional
from urllib.parse import parse_qsl

from intermodal_server.log import Log

MAX_HEAD_BYTES = 8 << 10
MAX_CONNECTIONS = 32
IDLE_S = 120.0
ANSWER_S = 30.0
RETRY_S = 0.5
PATIENCE_S = 3.0  # a front that is being replaced may still have the address


@dataclass(frozen=True)
class Question:
    """What a client wants of a page."""

    query: Mapping[str, str]
    accept: str


@dataclass(frozen=True)
class Page:
    """An answer whose body comes in pieces."""

    pieces: Iterable[bytes]
    content_type: str = "application/json"
    status: int = 200


Pages = Mapping[str, Callable[[Question], Page]]


@dataclass(frozen=True)
class _Head:
    method: str
    path: str
    question: Question
    keep: bool


@dataclass
class Listener:
    """Where the pages are offered."""

    pages: Pages
    log: Log
    before: Callable[[str], Awaitable[None]]  # awaited before each page, told its path
    _servers: list[asyncio.AbstractServer] = field(default_factory=list)
    _connections: dict[asyncio.StreamWriter, None] = field(default_factory=dict)  # oldest first
    _turn: Optional[asyncio.Lock] = None
    _closed: bool = False
    _paths: dict[str, int] = field(default_factory=dict)  # of Unix sockets -> inode

    async def serve_tcp(self, host: str, port: int) -> None:
        """Listen on a port, as soon as it is free."""
        await self._serve(lambda: _tcp(host, port), f"port {port}")

    async def serve_unix(self, path: str) -> None:
        """Listen on a Unix socket."""
        await self._serve(lambda: _unix(path), path)
        with contextlib.suppress(OSError):
            self._paths[path] = os.stat(path).st_ino

    async def _serve(self, bind: Callable[[], socket.socket], where: str) -> None:
        tries = 0
        while True:
            try:
                listener = bind()
                break
            except OSError as error:
                if tries == int(PATIENCE_S / RETRY_S):
                    reason = error.strerror or str(error)
                    self.log.warning("metrics cannot be offered until it is free", address=where, reason=reason)
                tries += 1
            await asyncio.sleep(RETRY_S)
        if self._closed:
            listener.close()
            return
        listener.setblocking(False)
        start = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
        self._servers.append(await start(self._connected, sock=listener, limit=MAX_HEAD_BYTES))

    def close(self) -> None:
        """Stop listening and hang up."""
        self._closed = True
        for server in self._servers:
            server.close()
        for writer in list(self._connections):
            writer.close()
        for path, inode in self._paths.items():
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:  # else another front has taken its place
                    os.unlink(path)
        self._paths.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.close()
        self._connections[writer] = None
        try:
            while await self._answer_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.CancelledError):
            pass
        except Exception as error:  # a page of ours failed; requests to the model are not concerned
            self.log.error("a page of the metrics port failed", reason=repr(error))
        finally:
            self._connections.pop(writer, None)
            with contextlib.suppress(Exception):
                writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is over."""
        try:
            text = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE_S)
        except asyncio.LimitOverrunError:
            await _send(writer, 431, "text/plain", [b"the request's head is too large\n"], keep=False)
            return False
        head = _read_head(text)
        if head is None:
            await _send(writer, 400, "text/plain", [b"this is not a request without a body\n"], keep=False)
            return False
        page = self.pages.get(head.path)
        if head.method not in ("GET", "HEAD"):
            await _send(writer, 405, "text/plain", [b"only GET and HEAD are answered here\n"], keep=head.keep)
        elif page is None:
            known = "".join(f"{path}\n" for path in self.pages).encode()
            await _send(writer, 404, "text/plain", [b"there is nothing at this path; there are\n", known], head.keep)
        else:
            if self._turn is None:
                self._turn = asyncio.Lock()
            async with self._turn:
                await self.before(head.path)
                answer = page(head.question)
                pieces = await _made(iter(answer.pieces))
            await _send(writer, answer.status, answer.content_type, pieces, head.keep, empty=head.method == "HEAD")
        return head.keep


def _tcp(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MAX_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def _unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)  # of a front that was killed
        listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103 - as the server's own socket: the folder decides who reaches it
        listener.listen(MAX_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


async def _made(pieces: Iterator[bytes]) -> list[bytes]:
    """All pieces, with a turn of the loop after each."""
    found: list[bytes] = []
    for piece in pieces:
        found.append(piece)
        await asyncio.sleep(0)
    return found


def _read_head(text: bytes) -> _Head | None:
    """The request; None when it is none, or has a body."""
    lines = text.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        return None
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon:
            return None
        headers[name.lower()] = value.strip()
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return None
    path, _, query = words[1].partition("?")
    try:
        asked = dict(parse_qsl(query, max_num_fields=16))
    except ValueError:
        return None
    keep = words[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return _Head(words[0], path, Question(asked, headers.get("accept", "")), keep)


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    content_type: str,
    pieces: Sequence[bytes],
    keep: bool,
    *,
    empty: bool = False,
) -> None:
    length = sum(map(len, pieces))
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n"
        f"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
        f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    writer.write(head.encode("latin-1"))
    if not empty:
        writer.writelines(pieces)
    await _patiently(writer.drain())


def _patiently(work: Awaitable[None]) -> Awaitable[None]:
    """A client that does not read its answer is hung up on."""
    return asyncio.wait_for(work, ANSWER_S)
