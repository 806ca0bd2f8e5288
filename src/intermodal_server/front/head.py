"""The head of a request: what the client says before the body, and what follows from that alone.

Takes method, path and headers, hands on what is decided by them; one head may belong to many requests, because clients
repeat theirs to the byte, so nothing in it changes.

Rules, in order: traffic is `golden`, `override`, `mirror` or `live`, by headers that a gateway sets; a body is plain
when its content type is one that every dialect takes, nothing was done to it, and its length, if it is declared, is a
number.
"""

from __future__ import annotations

from collections.abc import Mapping

from intermodal_server.front.limits import accepts, declared_length


class Head:
    """One head; headers are by name in lower case, of a repeated one the first."""

    __slots__ = ("headers", "length", "method", "path", "plain", "traffic")

    def __init__(self, method: str, path: str, headers: Mapping[bytes, str]) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.traffic = traffic_class(headers)
        self.length = declared_length(headers)  # of the body in bytes: 0 when nothing is said, -1 when it is no number
        self.plain = self.length >= 0 and b"content-encoding" not in headers and accepts(headers)


def traffic_class(headers: Mapping[bytes, str]) -> str:
    """live, mirror, override or golden."""
    if b"x-intermodal-golden" in headers:
        return "golden"
    if b"x-intermodal-revision" in headers:
        return "override"
    if b"x-intermodal-mirror" in headers:
        return "mirror"
    host = headers.get(b"host", "")
    return "mirror" if host.partition(":")[0].endswith("-shadow") else "live"
