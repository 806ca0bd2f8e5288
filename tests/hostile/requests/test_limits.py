"""Attack list 3, 6, 7: too much, too slow, compressed, smuggled; and what an error may say."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import Served, echo_root, infer_body, serve

INFER = "/v2/models/echo/infer"
LIMIT = 1 << 20
GOOD = json.dumps(infer_body([1])).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root), max_request_bytes=LIMIT, slow_body_s=2) as running:
        front = running.children("front")
        yield running
        assert running.infer([1]).json["outputs"][0]["data"] == [2.0]
        assert running.children("front") == front


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionError:
            return received
        if not data:
            return received
        received += data


def exchange(server: Served, sent: bytes) -> bytes:
    """What comes back, until the server closes."""
    with server.raw() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
        return read_all(connection)


def head(*lines: bytes, target: bytes = b"/v2/models/echo/infer") -> bytes:
    return b"\r\n".join([b"POST " + target + b" HTTP/1.1", b"Host: a", *lines, b"", b""])


def test_declared_length_above_the_limit_is_refused_before_the_body(server: Served) -> None:
    answer = exchange(server, head(b"Content-Length: %d" % (LIMIT + 1)))
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer


def test_expect_100_is_answered_by_the_refusal(server: Served) -> None:
    answer = exchange(server, head(b"Content-Length: %d" % (LIMIT + 1), b"Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_chunked_body_is_refused_when_it_grows_past_the_limit(server: Served) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = exchange(server, head(b"Transfer-Encoding: chunked") + chunk * 20)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bomb_stops_at_the_limit(server: Served, encoding: str) -> None:
    big = b" " * (200 << 20)
    body = gzip.compress(big) if encoding == "gzip" else zlib.compress(big)
    before = _rss(server.children("front")[0])
    assert server.request("POST", INFER, body, {"Content-Encoding": encoding}).status == 413
    assert _rss(server.children("front")[0]) - before < 32 << 20


def test_bomb_of_many_members_stops_at_the_limit(server: Served) -> None:
    body = gzip.compress(b" " * 60_000) * 1000
    assert server.request("POST", INFER, body, {"Content-Encoding": "gzip"}).status == 413


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [("gzip", b"not gzip", 400), ("gzip", gzip.compress(GOOD)[:-9], 400), ("deflate", gzip.compress(GOOD), 400),
     ("deflate", zlib.compress(GOOD) + b"x", 400), ("gzip", gzip.compress(GOOD) + b"x", 400), ("br", GOOD, 415),
     ("gzip, gzip", gzip.compress(gzip.compress(GOOD)), 415), ("gzip", b"", 400),
     ("identity", GOOD, 200), ("GZIP", gzip.compress(GOOD[:20]) + gzip.compress(GOOD[20:]), 200)],
)  # fmt: skip
def test_content_encodings(server: Served, encoding: str, body: bytes, status: int) -> None:
    assert server.request("POST", INFER, body, {"Content-Encoding": encoding}).status == status


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def test_six_byte_chunks_of_50_mb_leave_memory_flat(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), max_request_bytes=64 << 20) as server:
        front = server.children("front")[0]
        block = b"6\r\n      \r\n" * 5000
        with server.raw() as connection:
            connection.sendall(head(b"Transfer-Encoding: chunked"))
            for _ in range(20):
                connection.sendall(block)
            before = _rss(front)
            for _ in range(1650):
                connection.sendall(block)
            grown = _rss(front) - before
            connection.sendall(b"0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        assert grown < 2 * (50 << 20) + (8 << 20)  # the body itself, and one growing step of its buffer
        assert server.infer([1]).status == 200


def test_headers_too_large_or_too_many_are_431(server: Served) -> None:
    for lines in ([b"a: " + b"x" * 70_000], [b"a: %d" % i for i in range(200)], [b"a" * 70_000 + b": 1"]):
        assert exchange(server, head(*lines)).startswith(b"HTTP/1.1 431 ")
    assert exchange(server, head(target=b"/" + b"a" * 70_000)).startswith(b"HTTP/1.1 431 ")


def test_one_endless_header_is_cut_off(server: Served) -> None:
    answer = exchange(server, b"GET / HTTP/1.1\r\na: " + b"x" * (4 << 20))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    with server.raw() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\na: " + b"x" * 66_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


def test_endless_trailer_is_cut_off(server: Served) -> None:
    with server.raw() as connection:
        connection.sendall(head(b"Transfer-Encoding: chunked") + b"1\r\n \r\n0\r\n")
        try:
            for _ in range(64):
                connection.sendall(b"t: " + b"x" * 4096 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        assert read_all(connection)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")


def test_slow_headers_and_slow_bodies_are_closed_while_others_are_served(server: Served) -> None:
    slow = [server.raw() for _ in range(20)]
    for number, connection in enumerate(slow):
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: a\r\n" + (b"Content-Length: 50\r\n\r\n{" if number % 2 else b"")
        )
    silent = server.raw()
    ended: set[int] = set()
    deadline = time.monotonic() + 60
    while len(ended) < len(slow):
        assert time.monotonic() < deadline
        assert server.infer([1]).status == 200
        for number, connection in enumerate(slow):
            if number in ended:
                continue
            connection.setblocking(False)
            try:
                connection.send(b" ")  # a byte now and then does not help
                if connection.recv(100).startswith(b"HTTP/1.1 408 "):
                    ended.add(number)
            except BlockingIOError:
                pass
            except ConnectionError:
                ended.add(number)
        time.sleep(0.1)
    assert silent.recv(100).startswith(b"HTTP/1.1 408 ")
    for connection in [*slow, silent]:
        connection.close()


def test_a_client_that_leaves_in_the_middle_costs_nothing(server: Served) -> None:
    for _ in range(20):
        with server.raw() as connection:
            connection.sendall(head(b"Content-Length: 100") + b"{")
    with server.raw() as connection:
        connection.sendall(head(b"Content-Length: %d" % len(GOOD)) + GOOD)
    assert server.infer([1]).status == 200


SMUGGLING = {
    "both lengths": head(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    "two lengths": head(b"Content-Length: 5", b"Content-Length: 6") + b"12345",
    "signed length": head(b"Content-Length: +5") + b"12345",
    "folded header": head(b"a: b\r\n folded", b"Content-Length: 0"),
    "space before colon": head(b"Content-Length : 5") + b"12345",
    "unknown coding": head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunk extension newline": head(b"Transfer-Encoding: chunked") + b"1;a\n \r\n0\r\n\r\n",
    "wrong chunk size": head(b"Transfer-Encoding: chunked") + b"zz\r\n",
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "lone newlines": b"GET / HTTP/1.1\nHost: a\nContent-Length: 1\n\nX\n\n",
}


@pytest.mark.parametrize("name", sorted(SMUGGLING))
def test_ambiguous_framing_is_answered_once_at_most_and_closed(server: Served, name: str) -> None:
    with server.raw() as connection:
        connection.sendall(SMUGGLING[name])
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 ") <= 1, answer
    assert not answer.startswith(b"HTTP/1.1 2"), answer


def test_pipelined_requests_are_answered_in_order(server: Served) -> None:
    bodies = [json.dumps(infer_body([number])).encode() for number in range(5)]
    requests = b"".join(head(b"Content-Length: %d" % len(body)) + body for body in bodies)
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = exchange(server, requests + last)
    places = [answer.index(b'"data":[%.1f]' % (2.0 * number)) for number in range(5)]
    assert places == sorted(places) and answer.endswith(b'{"live":true}')


def test_http_1_0_is_answered_and_closed(server: Served) -> None:
    assert exchange(server, b"GET /v2/health/live HTTP/1.0\r\n\r\n").endswith(b'{"live":true}')


def test_answers_reflect_no_host_and_allow_no_foreign_origin(server: Served) -> None:
    reply = server.request("GET", "/v2/nothing", headers={"Host": "evil.example", "Origin": "http://evil.example"})
    assert b"evil" not in reply.body and "evil" not in str(reply.headers)
    assert not [name for name in reply.headers if name.startswith("access-control") or name == "server"]


def test_errors_hold_no_path_traceback_or_version(server: Served) -> None:
    bodies = [
        infer_body([444]),
        infer_body([666]),
        {"inputs": []},
        b"{",
        infer_body(["a"]),
        infer_body([1], outputs=[{"name": "q"}]),
    ]
    texts = [server.request("POST", INFER, body).body for body in bodies]
    texts += [server.request("GET", path).body for path in ("/", "/v2/models/none", "/v2/models/echo/infer")]
    for text in texts:
        assert set(json.loads(text)) == {"error"}
        for secret in (b"/", b"\\\\", b"Traceback", b".py", b"uvicorn", b"httptools", b"msgspec", b"secret", b"line "):
            assert secret not in text, text
    server.wait_ready()


def test_log_lines_cannot_be_forged(server: Served) -> None:
    forged = 'x\r\n{"level": "error", "part": "supervisor", "message": "forged"}\x1b[31m\u2028'
    quoting = 'x", "level": "error", "message": "forged'
    server.request("POST", INFER, infer_body([444], id=forged))
    server.request("POST", INFER, infer_body([444]), {"x-request-id": quoting})
    assert not [line for line in server.log() if line["message"] == "forged"]
    assert [line for line in server.log() if line.get("request") == quoting]


def test_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), timeout_s=5) as server:
        body = json.dumps(infer_body([555])).encode()
        request = head(b"Content-Length: %d" % len(body)) + body
        waiting = [server.raw() for _ in range(1026)]
        for connection in waiting:
            connection.sendall(request)

        def full() -> bool:
            reply = server.infer([1])
            assert reply.status in (429, 503), reply.body
            return reply.status == 429 and reply.headers["retry-after"] == "1"

        server.wait(full, "429")
        assert server.request("GET", "/v2/health/live").status == 200
        for connection in waiting:
            connection.close()
