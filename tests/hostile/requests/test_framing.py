"""Attack list 6: requests whose end two readers may see differently, and everything else that is not plain HTTP/1.1.

Every case is followed by `NEXT`, a request that a smuggler would like to be answered. A refused case gets one answer
and the end of the connection; an accepted one gets its own answer and that of `NEXT`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.requests.raw import LIVE, exchange, head, read_all, statuses
from support.serving import Served, echo_root, infer_body, serve

NEXT = b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
BODY = json.dumps(infer_body([21])).encode()
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
SIZE = b"%x" % len(BODY)
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")


def chunks(size: bytes = SIZE, body: bytes = BODY, end: bytes = b"0\r\n\r\n") -> bytes:
    return size + b"\r\n" + body + b"\r\n" + end


def get(*lines: bytes, target: bytes = LIVE, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return head(*lines, target=target, method=method, version=version)


REFUSED = {
    "length and coding": (400, head(b"Content-Length: %d" % len(chunks()), CHUNKED) + chunks()),
    "coding and length": (400, head(CHUNKED, b"Content-Length: 4") + chunks()),
    "two lengths": (400, head(LENGTH, b"Content-Length: 0") + BODY),
    "one length twice": (400, head(LENGTH, LENGTH) + BODY),
    "length in a list": (400, head(LENGTH + b", %d" % len(BODY)) + BODY),
    "length with a sign": (400, head(b"Content-Length: +%d" % len(BODY)) + BODY),
    "length below zero": (400, head(b"Content-Length: -1")),
    "length in hexadecimal": (400, head(b"Content-Length: 0x10") + BODY),
    "length beyond 64 bits": (400, head(b"Content-Length: 18446744073709551616") + BODY),
    "no length in the length": (400, head(b"Content-Length: ") + BODY),
    "space before the colon": (400, head(b"Content-Length : %d" % len(BODY)) + BODY),
    "coding, space before the colon": (400, head(b"Transfer-Encoding : chunked") + chunks()),
    "folded length": (400, head(b"Content-Length:\r\n %d" % len(BODY)) + BODY),
    "folded header": (400, head(b"a: b\r\n c", LENGTH) + BODY),
    "coding twice": (400, head(CHUNKED, CHUNKED) + chunks()),
    "unknown coding": (501, head(b"Transfer-Encoding: xchunked") + chunks()),
    "coding in quotes": (501, head(b'Transfer-Encoding: "chunked"') + chunks()),
    "coding with a vertical tab": (400, head(b"Transfer-Encoding: \x0bchunked") + chunks()),
    "identity": (400, head(b"Transfer-Encoding: identity", LENGTH) + BODY),
    "gzip, then chunked": (501, head(b"Transfer-Encoding: gzip, chunked") + chunks()),
    "chunked, then gzip": (400, head(b"Transfer-Encoding: chunked, gzip") + chunks()),
    "chunked, then identity": (400, head(CHUNKED, b"Transfer-Encoding: identity") + chunks()),
    "bare LF everywhere": (400, get().replace(b"\r\n", b"\n")),
    "bare LF in a header": (400, get(b"a: b\nContent-Length: 5")),
    "bare CR in a header": (400, get(b"a: b\rContent-Length: 5")),
    "bare LF at the end": (400, get()[:-2] + b"\n"),
    "NUL in a header": (400, get(b"a: b\0c")),
    "control in a name": (400, get(b"a\x01b: c")),
    "header without a name": (400, get(b": b")),
    "header without a colon": (400, get(b"abc")),
    "chunks with bare LF": (400, head(CHUNKED) + chunks().replace(b"\r\n", b"\n")),
    "chunk extension ends in LF": (400, head(CHUNKED) + SIZE + b";a\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk extension without its quote": (400, head(CHUNKED) + chunks(SIZE + b';a="x')),
    "chunk size with 0x": (400, head(CHUNKED) + chunks(b"0x" + SIZE)),
    "chunk size with a space": (400, head(CHUNKED) + chunks(SIZE + b" ")),
    "chunk size with a sign": (400, head(CHUNKED) + chunks(b"-1")),
    "chunk size beyond 64 bits": (400, head(CHUNKED) + chunks(b"1%016x" % len(BODY))),
    "chunk size of 64 bits": (413, head(CHUNKED) + chunks(b"f" * 16, BODY + b" " * (1 << 20))),
    "chunk without its end": (400, head(CHUNKED) + chunks(end=b"0\r\n\r\n").replace(b"\r\n0\r\n", b"XX0\r\n")),
    "chunk that ends in LF": (400, head(CHUNKED) + SIZE + b"\r\n" + BODY + b"\n0\r\n\r\n"),
    "length in a trailer": (400, head(CHUNKED) + chunks(end=b"0\r\nContent-Length: 5\r\n\r\n")),
    "no host": (400, get().replace(b"Host: a\r\n", b"")),
    "two hosts": (400, get(b"hOST: b")),
    "CONNECT": (405, get(target=b"a:80", method=b"CONNECT")),
    "CONNECT to a path": (405, get(method=b"CONNECT")),
    "HTTP/2 without asking": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0": (505, get(version=b"HTTP/2.0")),
    "HTTP/0.9": (505, b"GET /v2/health/live\r\n\r\n"),
    "HTTP/1.2": (400, get(version=b"HTTP/1.2")),
    "http/1.1": (400, get(version=b"http/1.1")),
    "space in the target": (400, get(target=b"/v2/health/live /x")),
    "tabs in the request line": (400, get().replace(b" ", b"\t", 2)),
    "byte that is no ASCII in the target": (400, get(target=LIVE + b"\xff")),
    "encoded slash": (400, get(target=b"/v2%2Fhealth/live")),
    "encoded backslash": (400, get(target=b"/v2/health%5clive")),
    "encoded NUL": (400, get(target=LIVE + b"%00")),
    "unknown method": (400, get(method=b"FOO")),
    "method in small letters": (400, get(method=b"get")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64),
    "HTTP/1.0 and a coding": (200, head(CHUNKED, version=b"HTTP/1.0") + chunks()),
    "after close": (200, get(b"Connection: close")),
}  # what is answered with 200 ends the connection all the same
ACCEPTED = {
    "plain": (200, get()),
    "empty lines before": (200, b"\r\n\r\n" + get()),
    "length with spaces around": (200, head(b"Content-Length:  %d " % len(BODY)) + BODY),
    "body of a GET": (200, get(b"Content-Length: 5") + b"12345"),
    "chunked in capitals": (200, head(b"transfer-ENCODING:\tChunked") + chunks()),
    "chunk extension": (200, head(CHUNKED) + chunks(SIZE + b";a=b")),
    "trailer": (200, head(CHUNKED) + chunks(end=b"0\r\na: b\r\n\r\n")),
    "query": (200, get(target=LIVE + b"?a=%2f%00&a")),
    "whole URL": (200, get(target=b"http://evil.example" + LIVE)),
    "asterisk": (404, get(target=b"*", method=b"OPTIONS")),
    "dots": (404, get(target=b"/v2/x/../health/live")),
    "two slashes": (404, get(target=b"/" + LIVE)),
    "OPTIONS": (405, get(b"Origin: http://evil.example", b"Access-Control-Request-Method: GET", method=b"OPTIONS")),
    "upgrade to HTTP/2": (200, get(*H2C)),
    "upgrade to HTTP/2 with a body": (200, head(*H2C, LENGTH) + BODY),
    "upgrade to HTTP/2 with chunks": (200, head(*H2C, CHUNKED) + chunks()),
    "upgrade to a websocket": (200, get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")),
    "a connection that is all upgrades": (200, get(*H2C) + head(*H2C, LENGTH) + BODY + get(*H2C)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root), max_request_bytes=1 << 20, slow_body_s=2) as running:
        front = running.children("front")
        yield running
        assert running.infer([1]).json["outputs"][0]["data"] == [2.0]
        assert running.children("front") == front


@pytest.mark.parametrize("case", REFUSED)
def test_ambiguous_framing_gets_one_answer_and_the_end(server: Served, case: str) -> None:
    status, sent = REFUSED[case]
    answer = exchange(server, sent + NEXT)
    assert statuses(answer) == [status], answer
    assert b"connection: close\r\n" in answer


@pytest.mark.parametrize("case", ACCEPTED)
def test_plain_framing_is_followed_by_the_next_request(server: Served, case: str) -> None:
    status, sent = ACCEPTED[case]
    answer = exchange(server, sent + NEXT)
    found = statuses(answer)
    assert set(found[:-1]) == {status} and found[-1] == 200, answer
    assert len(found) == sent.count(b" HTTP/1.1\r\n") + 1
    assert answer.count(b'"data":[42.0]') == sent.count(BODY)
    assert b"evil" not in answer and b"access-control" not in answer.lower()


@pytest.mark.parametrize("case", sorted({**REFUSED, **ACCEPTED}))
def test_framing_does_not_depend_on_packets(server: Served, case: str) -> None:
    status, sent = {**REFUSED, **ACCEPTED}[case]
    at = int.from_bytes(hashlib.sha256(case.encode()).digest()[:4], "big") % len(sent)
    with server.raw() as connection:
        try:
            connection.sendall(sent[:at])
            server.request("GET", "/v2/health/live")  # by now the front has read it
            connection.sendall(sent[at:] + NEXT)
        except (BrokenPipeError, ConnectionResetError):
            assert case in REFUSED
        answer = read_all(connection)
    found = statuses(answer)
    assert found[0] == status
    assert len(found) == (1 if case in REFUSED else sent.count(b" HTTP/1.1\r\n") + 1)


def test_trailers_are_no_headers(tmp_path: Path) -> None:
    key = b"im_key"
    line = f"keys:alice:{hashlib.sha256(key).hexdigest()}"
    with serve(echo_root(tmp_path), api_keys=line) as server:
        trailer = b"0\r\nx-api-key: " + key + b"\r\nx-request-id: forged\r\nContent-Encoding: gzip\r\n\r\n"
        answer = exchange(server, head(CHUNKED, b"Connection: close") + chunks(end=trailer))
        assert statuses(answer) == [401] and b"forged" not in answer
        good = head(CHUNKED, b"X-API-Key: " + key + b" ", b"Connection: close") + chunks(end=trailer)
        answer = exchange(server, good)
        assert statuses(answer) == [200] and b"forged" not in answer


def test_pipelined_requests_are_answered_in_order(server: Served) -> None:
    bodies = [json.dumps(infer_body([number])).encode() for number in range(5)]
    requests = b"".join(head(b"Content-Length: %d" % len(body)) + body for body in bodies)
    answer = exchange(server, requests + get(b"Connection: close"))
    places = [answer.index(b'"data":[%.1f]' % (2.0 * number)) for number in range(5)]
    assert places == sorted(places) and answer.endswith(b'{"live":true}')


def test_http_1_0_is_answered_and_closed(server: Served) -> None:
    answer = exchange(server, b"GET /v2/health/live HTTP/1.0\r\n\r\n" + NEXT)
    assert statuses(answer) == [200] and answer.endswith(b'{"live":true}')
    assert statuses(exchange(server, head(LENGTH, version=b"HTTP/1.0") + BODY)) == [200]


def test_what_came_before_garbage_is_answered_first(server: Served) -> None:
    answer = exchange(server, get() * 3 + b"GARBAGE\r\n\r\n")
    assert statuses(answer) == [200, 200, 200, 400] and answer.count(b"connection: close\r\n") == 1


def test_the_model_was_asked_as_often_as_it_was_answered(server: Served) -> None:
    before = server.request("GET", "/v2/models/stats").json["model_stats"][0]["inference_count"]
    for case in sorted(REFUSED):
        if REFUSED[case][0] != 200:
            exchange(server, REFUSED[case][1] + head(LENGTH) + BODY)
    assert server.request("GET", "/v2/models/stats").json["model_stats"][0]["inference_count"] == before
