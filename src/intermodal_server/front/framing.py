"""What a request's head must be beyond what the parser demands, so that no two readers can frame it differently.

Takes what httptools has read of a head, hands on a refusal (status and sentence) or nothing; and the path that is asked
for. Everything here has been used for smuggling requests past gateways, or is a request of another protocol.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Optional

import httptools

Denial = Optional[tuple[int, str]]

_HIDDEN = re.compile(rb"%(?:2f|5c|00)", re.IGNORECASE)  # slash, backslash and NUL as gateways may not see them


def refused_head(parser: Any, url: bytes, headers: Mapping[bytes, str]) -> Denial:
    """Why a whole head cannot be taken.

    Args:
        parser: of httptools, at the end of the head.
        url: the target.
        headers: by name in lower case; of a repeated one the first.
    """
    version = parser.get_http_version()
    if version != "1.1" and version != "1.0":
        return 505, "this server speaks HTTP/1.1"
    if version == "1.1" and b"host" not in headers:
        return 400, "a request has exactly one Host"
    if headers.get(b"transfer-encoding", "chunked").strip().lower() != "chunked":  # of two the parser takes none
        return 501, "this transfer coding is not known here; send chunked or Content-Length"
    if b"%" in url and _HIDDEN.search(url.partition(b"?")[0]):
        return 400, "the path holds an encoded slash or NUL"
    if parser.should_upgrade() and parser.get_method() == b"CONNECT":
        return 405, "this is not a proxy"
    return None


def framing_of(headers: Mapping[bytes, str]) -> bytes:
    """A head with which another parser reads the body of the same request; empty when it has none."""
    found = [(name, headers.get(name)) for name in (b"content-length", b"transfer-encoding")]
    fields = b"".join(b"%b: %b\r\n" % (name, text.encode("latin-1")) for name, text in found if text)
    return b"POST / HTTP/1.1\r\n%b\r\n" % fields if fields else b""


def path_of(url: bytes) -> str:
    """The path of a request's target, decoded."""
    if url[:1] != b"/" or b"?" in url or b"#" in url:
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return "?"  # such as CONNECT's; no route begins so
    path = url.decode("latin-1")
    return urllib.parse.unquote(path) if "%" in path else path
