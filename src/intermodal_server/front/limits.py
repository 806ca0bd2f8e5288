"""Limits before parsing: what a client may send, how fast, and how far it may be compressed.

Takes the `receive` of one request, hands on its whole body, decoded; refuses with a status and a sentence.

Rules, in order: a declared length above the limit is refused before a byte is read; a chunked body when it grows
past it; a body of which less than 16 KiB/s come in some `slow_body_s`; a content encoding other than gzip and deflate;
an expansion past the same limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Callable, Union

if TYPE_CHECKING:
    from intermodal_server.front.head import Head

Body = Union[bytes, bytearray]
Receive = Callable[[int, float], Awaitable[Body]]  # largest size, grace in seconds: the body as it was sent

MAX_HEADER_BYTES = 64 << 10
MAX_HEADERS = 128
MAX_CONNECTIONS = 4096
MAX_REQUESTS_PER_CONNECTION = 100_000
SLOWEST_BYTES_PER_S = 16 << 10
KEEP_ALIVE_S = 75
MAX_ID_CHARS = 256
MAX_OUTPUTS = 1024
MAX_RANK = 32
CONTENT_TYPES = frozenset(
    ("", "application/json", "application/octet-stream", "text/plain", "text/json", "application/x-www-form-urlencoded")
)


class Refusal(Exception):
    """A request that gets an error answer; the message is shown to the client, so it holds nothing internal."""

    def __init__(
        self, status: int, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = (), close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.close = close


class Disconnected(Exception):
    """The client has gone away; nobody reads an answer."""


def media_type(headers: Mapping[bytes, str]) -> str:
    """The content type without its parameters, "" when the client did not say."""
    return headers.get(b"content-type", "").partition(";")[0].strip().lower()


def accepts(headers: Mapping[bytes, str]) -> bool:
    """Whether the content type is not one that only a deserializer could read; JSON comes under many names."""
    kind = media_type(headers)
    return kind in CONTENT_TYPES or kind.endswith("+json")


def declared_length(headers: Mapping[bytes, str]) -> int:
    """The length that the client declares for its body: 0 when it says nothing, -1 when that is no number."""
    text = headers.get(b"content-length")
    if text is None:
        return 0
    text = text.strip(" \t")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def too_large(limit: int) -> Refusal:
    """The refusal of a body above the limit."""
    return Refusal(413, f"the request body is larger than {limit} bytes", close=True)


async def read_body(receive: Receive, head: Head, *, limit: int, slow_body_s: float) -> Body:
    """The whole body as it was before `Content-Encoding`.

    Args:
        receive: of the request.
        head: of the request.
        limit: largest size in bytes, before and after decompression.
        slow_body_s: in each stretch of this length 16 KiB/s must come, or the end of the body.

    Raises:
        Refusal: 400, 408, 413 or 415.
        Disconnected: the client went away.
    """
    encoding = head.headers.get(b"content-encoding")
    if encoding is not None:
        encoding = encoding.strip().lower()
        if encoding not in ("identity", "", "gzip", "deflate"):
            raise Refusal(415, "this content encoding is not accepted; send gzip, deflate or none", close=True)
    if head.length < 0:
        raise Refusal(400, "Content-Length is not a number", close=True)
    if head.length > limit:
        raise too_large(limit)
    body = await receive(limit, slow_body_s)
    if encoding in ("gzip", "deflate"):
        return decompress(body, encoding, limit)
    return body


def decompress(data: Body, encoding: str, limit: int) -> bytes:
    """`data` expanded, never by more than `limit` bytes.

    Raises:
        Refusal: 400 when it is damaged, 413 when it expands past the limit.
    """
    out = bytearray()
    rest: bytes | None = bytes(data)
    wbits = 31 if encoding == "gzip" else 15
    try:
        while rest:
            stream = zlib.decompressobj(wbits)
            out += stream.decompress(rest, limit + 1 - len(out))
            if len(out) > limit:
                raise too_large(limit)
            if not stream.eof:
                raise Refusal(400, f"the {encoding} body is cut short")
            rest = stream.unused_data
            if rest and encoding == "deflate":
                raise Refusal(400, "bytes follow the deflate body")
    except zlib.error:
        raise Refusal(400, f"the body is not {encoding}") from None
    return bytes(out)
