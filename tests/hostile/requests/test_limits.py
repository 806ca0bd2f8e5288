"""Attack list 3, 6, 7: too much, compressed, reflected; and what an error may say."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.requests.raw import exchange, head, read_all, rss_bytes
from support.serving import Served, echo_root, infer_body, serve

INFER = "/v2/models/echo/infer"
LIMIT = 1 << 20
GOOD = json.dumps(infer_body([1])).encode()
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root), max_request_bytes=LIMIT, slow_body_s=2) as running:
        front = running.children("front")
        yield running
        assert running.infer([1]).json["outputs"][0]["data"] == [2.0]
        assert running.children("front") == front


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
    before = rss_bytes(server.children("front")[0])
    assert server.request("POST", INFER, body, {"Content-Encoding": encoding}).status == 413
    assert rss_bytes(server.children("front")[0]) - before < 32 << 20


def test_bomb_of_many_members_stops_at_the_limit(server: Served) -> None:
    body = gzip.compress(b" " * 60_000) * 1000
    assert server.request("POST", INFER, body, {"Content-Encoding": "gzip"}).status == 413


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [("gzip", b"not gzip", 400), ("gzip", PACKED[:-9], 400), ("deflate", PACKED, 400),
     ("deflate", zlib.compress(GOOD) + b"x", 400), ("gzip", PACKED + b"x", 400), ("br", GOOD, 415),
     ("gzip, gzip", gzip.compress(PACKED, mtime=0), 415), ("gzip", b"", 400), ("identity", GOOD, 200),
     ("GZIP", gzip.compress(GOOD[:20], mtime=0) + gzip.compress(GOOD[20:], mtime=0), 200)],
)  # fmt: skip
def test_content_encodings(server: Served, encoding: str, body: bytes, status: int) -> None:
    assert server.request("POST", INFER, body, {"Content-Encoding": encoding}).status == status


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
    texts += [server.request("GET", path).body for path in ("/nothing", "/v2/models/none", "/v2/models/echo/infer")]
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
