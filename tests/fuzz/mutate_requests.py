"""Making new connections and bodies out of old ones: framing that contradicts itself, JSON that is almost right.

Takes bytes and a source of chance; hands on bytes. Lengths are made right again most of the time, because a wrong one
only tests the first line of a reader.
"""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

LINES = (
    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 99999999999999999999", b"content-length: +5",
    b"Content-Length: 5, 5", b"Content-Length : 5", b"Content-Length: 0x5", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: identity",
    b"TE: trailers", b"Transfer-Encoding: chunked, chunked", b"Connection: close", b"Connection: keep-alive, Upgrade",
    b"Upgrade: h2c", b"Connection: Upgrade", b"Upgrade: websocket", b"Expect: 100-continue",
    b"Content-Encoding: gzip", b"Host: b", b"Content-Encoding: deflate", b"Content-Encoding: br",
    b"Inference-Header-Content-Length: 10", b"x-request-id: a\x7f", b"Inference-Header-Content-Length: -1",
    b"Content-Type: text/csv", b"Content-Type: application/x-pickle", b": x", b"Accept: text/html",
    b"Accept-Encoding: gzip", b"x-intermodal-golden: 1", b" folded", b"a: b\n c", b"a\0: b", b"b", b"x-api-key: k",
    b"Trailer: a", b"a: " + b"x" * 3000, b"traceparent: 00-0-0-00",
)  # fmt: skip
TARGETS = (
    b"/v2/models/m/infer", b"/predict", b"/v1/models/m:predict", b"/invocations", b"/v2/health/ready", b"/", b"*",
    b"//", b"/v2/models/m/versions/1/infer", b"/v2/models/m", b"/ping", b"/openapi.json", b"http://h/v2",
    b"/v2?x=%2f", b"/%2e%2e", b"/v2%2fhealth", b"/v2#a", b"h:80", b"/v2/models/m/infer/", b"/%", b"/\xff",
    b"/v2/models/m/config", b"",
)  # fmt: skip
METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PUT", b"PRI", b"get", b"M-SEARCH", b"TRACE")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/11", b"http/1.1", b"")
ENDS = (b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" \r\n", b"\r\n ", b"\0\r\n", b"")
SIZES = (
    b"0", b"5", b"00005", b"+5", b"-1", b"0x5", b"5;a=b", b'5;a="', b"5 ", b"ffffffffffffffff", b"10000000000000000",
    b"", b"g",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1 << 31, 1 << 63, 1 << 64, 10**400, "", "a", "x" * 300, "\ud800", [], {}, [[]],
    [[1, 2], [3]], [None], {"b64": "AAA="}, {"b64": "="}, "FP64", "FP16", "BOOL", "INT8", "UINT64", "BYTES", "nope",
    [2**40, 2**40], [0], [1] * 40, {"binary_data_size": 8}, {"binary_data": True}, {"binary_data_output": True},
    float("nan"), float("inf"), {"classification": 2}, [[1, 2]], [1, 2],
)  # fmt: skip
KEYS = (
    "inputs", "outputs", "instances", "name", "shape", "datatype", "data", "parameters", "id", "binary_data_size",
    "binary_data", "columns", "index", "dataframe_split", "dataframe_records", "signature_name", "x", "s", "n",
    "params", "classification", "",
)  # fmt: skip
PIECES = (b"", b"[", b"{", b'"', b",", b"\\", b"\xff", b"1e999", b"NaN", b"\\ud800", b"0" * 50, b"\xef\xbb\xbf")


def connection(data: bytes, chance: Random) -> bytes:
    """One line, target, size or place changed; lengths corrected most of the time."""
    cut, data = data[:1] or b"\0", data[1:]
    if chance.random() < 0.1:
        return bytes([chance.randrange(256)]) + data
    lines = re.split(rb"(?<=\n)", data)
    at = chance.randrange(len(lines))
    what = chance.randrange(9)
    if what == 0:
        lines.insert(at, chance.choice(LINES) + chance.choice((b"\r\n", b"\r\n", b"\r\n", b"\n")))
    elif what == 1:
        lines[at] = chance.choice(LINES) + b"\r\n"
    elif what == 2:
        del lines[at]
    elif what == 3:
        lines[at] = lines[at].rstrip(b"\r\n") + chance.choice(ENDS)
    elif what == 4:
        heads = [number for number, line in enumerate(lines) if b" HTTP/" in line] or [at]
        words = lines[chance.choice(heads)].rstrip(b"\r\n").split(b" ")
        words[chance.randrange(len(words))] = chance.choice((*TARGETS, *METHODS, *VERSIONS))
        lines[chance.choice(heads)] = b" ".join(words) + b"\r\n"
    elif what == 5:
        lines[at] = chance.choice(SIZES) + b"\r\n"
    elif what == 6:
        lines[at:at] = lines[chance.randrange(len(lines)) :][: chance.choice((1, 3, 8, 20))]
    elif what == 7:
        bodies = [number for number, line in enumerate(lines) if line.startswith(b"{")] or [at]
        chosen = chance.choice(bodies)
        lines[chosen] = _json(lines[chosen], chance)
    else:
        data = b"".join(lines)
        place = chance.randrange(len(data) + 1)
        return cut + data[:place] + chance.choice((b"", b"\0", b"\r", b"\n", b" ", b"\xff", b":")) + data[place + 1 :]
    data = b"".join(lines)
    return cut + (_with_lengths(data) if chance.random() < 0.7 else data)


def _with_lengths(data: bytes) -> bytes:
    """The stream with each Content-Length that stands alone set to the JSON line that follows its head."""

    def right(match: re.Match[bytes]) -> bytes:
        return b"%bContent-Length: %d%b%b" % (match[1], len(match[3]), match[2], match[3])

    return re.sub(rb"(\r\n)Content-Length: \d{1,5}((?:\r\n[^\r\n]+)*\r\n\r\n)(\{[^\r\n]*\})", right, data)


def body(data: bytes, chance: Random) -> bytes:
    """A node of the JSON, its binary part, its path or the length of its head changed."""
    name, _, text = data.partition(b"\n")
    if chance.random() < 0.1:
        others = (b"", b"0", b"-1", b"99999", b"10", *(t for t in TARGETS if t.startswith(b"/")))
        return chance.choice(others) + chance.choice((b"", b" text/csv", b" application/json")) + b"\n" + text
    if name.isdigit():
        head, tail = text[: int(name)], text[int(name) :]
        if chance.random() < 0.3:
            tail = tail[: chance.randrange(len(tail) + 1)] + chance.randbytes(chance.choice((0, 0, 1, 4, 8)))
        head = _json(head, chance)
        return (b"%d" % len(head) if chance.random() < 0.9 else name) + b"\n" + head + tail
    return name + b"\n" + _json(text, chance)


def _json(text: bytes, chance: Random) -> bytes:
    """JSON with one node changed; what is none is changed as bytes."""
    try:
        document = json.loads(text)
        places: list[tuple[Any, Any]] = []
        _collect(document, places)
        if not places:
            return json.dumps(chance.choice(VALUES)).encode()
        parent, key = chance.choice(places)
        what = chance.randrange(6)
        if what == 0:
            del parent[key]
        elif what == 1 and isinstance(parent, dict):
            parent[chance.choice(KEYS)] = parent[key]
        elif what == 2 and isinstance(parent, list):
            parent.insert(0, parent[key])
        elif what == 3:
            parent[key] = [parent[key]]
        else:
            parent[key] = chance.choice(VALUES)
        return json.dumps(document).encode()
    except (ValueError, RecursionError):
        at = chance.randrange(len(text) + 1)
        return text[:at] + chance.choice(PIECES) + text[at + chance.choice((0, 1, 5)) :]


def _collect(node: Any, places: list[tuple[Any, Any]]) -> None:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        places.append((node, key))
        _collect(value, places)
