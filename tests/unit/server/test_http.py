"""The connection itself: order, keep-alive, upgrades that are declined, clients that do not read, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import Served, echo_root, infer_body, serve

from intermodal_server.front.http import HttpServer

INFER = b"/v2/models/echo/infer"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(echo_root(tmp_path_factory.mktemp("root")), slow_body_s=2) as running:
        front = running.children("front")
        yield running
        assert running.children("front") == front


def post(*fields: bytes, target: bytes = INFER) -> bytes:
    return b"\r\n".join([b"POST " + target + b" HTTP/1.1", b"Host: a", *fields, b"", b""])


def whole(number: float, *fields: bytes) -> bytes:
    body = json.dumps(infer_body([number])).encode()
    return post(b"Content-Length: %d" % len(body), *fields) + body


class Client:
    """One connection, read answer by answer."""

    def __init__(self, server: Served) -> None:
        self.socket = server.raw()
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, *, empty: bool = False) -> tuple[int, dict[str, str], bytes]:
        line = self.file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        headers: dict[str, str] = {}
        while (field := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = field.decode().partition(":")
            headers[name] = value.strip()
        body = b"" if empty else self.file.read(int(headers.get("content-length", 0)))
        return int(line.split()[1]), headers, body

    def value(self) -> float:
        status, _, body = self.answer()
        assert status == 200, body
        return float(json.loads(body)["outputs"][0]["data"][0])

    def is_over(self) -> bool:
        return self.file.read(1) == b""


def test_a_connection_lives_on_until_somebody_ends_it(server: Served) -> None:
    with Client(server) as client:
        for number in range(3):
            client.send(whole(number))
            assert client.value() == 2.0 * number
        client.send(whole(4, b"Connection: close"))
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (200, "close") and client.is_over()


def test_masses_sent_ahead_are_answered_in_order(server: Served) -> None:
    with Client(server) as client:
        client.send(b"".join(whole(number) + LIVE for number in range(300)))
        for number in range(300):
            assert client.value() == 2.0 * number
            assert client.answer()[2] == b'{"live":true}'


def test_a_request_in_single_bytes(server: Served) -> None:
    with Client(server) as client:
        for place, byte in enumerate(whole(5)):
            client.send(bytes([byte]))
            if place % 16 == 0:
                time.sleep(0.001)
        assert client.value() == 10.0


@pytest.mark.parametrize("apart", [False, True])
def test_an_upgrade_is_declined_and_its_body_is_not_another_request(server: Served, apart: bool) -> None:
    smuggled = b"GET /v2/nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
    fields = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
    body = json.dumps(infer_body([3])).encode()
    with Client(server) as client:
        for data, status in ((body, 200), (smuggled, 400)):
            head = post(b"Content-Length: %d" % len(data), *fields)
            client.send(head if apart else head + data)
            if apart:
                time.sleep(0.05)
                client.send(data)
            assert client.answer()[0] == status
        client.send(whole(1))
        assert client.value() == 2.0


def test_an_upgrade_with_a_chunked_body_is_declined_too(server: Served) -> None:
    body = json.dumps(infer_body([9])).encode()
    head = post(b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked")
    with Client(server) as client:
        client.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) + LIVE)
        assert client.value() == 18.0
        assert client.answer()[2] == b'{"live":true}'


def test_connect_is_no_tunnel(server: Served) -> None:
    with Client(server) as client:
        client.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + LIVE)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (405, "close") and client.is_over()


def test_continue_is_said_to_who_waits_for_it(server: Served) -> None:
    body = json.dumps(infer_body([6])).encode()
    with Client(server) as client:
        client.send(post(b"Content-Length: %d" % len(body), b"Expect: 100-continue"))
        assert client.answer()[0] == 100
        client.send(body)
        assert client.value() == 12.0


def test_nonsense_after_a_request_does_not_take_its_answer(server: Served) -> None:
    with Client(server) as client:
        client.send(whole(7) + whole(8) + b"nonsense\r\n\r\n" + LIVE)
        assert (client.value(), client.value()) == (14.0, 16.0)
        status, headers, body = client.answer()
        assert (status, headers["connection"]) == (400, "close") and b"not an HTTP request" in body
        assert client.is_over()


@pytest.mark.parametrize(("size", "lives"), [(10, True), (100_000, False)])
def test_a_body_that_is_not_needed_is_read_past_when_it_is_small(server: Served, size: int, lives: bool) -> None:
    with Client(server) as client:
        client.send(post(b"Content-Length: %d" % size, target=b"/nowhere"))
        status, headers, _ = client.answer()
        assert status == 404 and ("connection" not in headers) == lives
        with contextlib.suppress(ConnectionError):
            client.send(b"x" * size + LIVE)
        if lives:
            assert client.answer()[0] == 200
        else:
            assert client.is_over()


def test_a_head_alone_is_answered_without_a_body(server: Served) -> None:
    with Client(server) as client:
        client.send(b"HEAD /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, _ = client.answer(empty=True)
        assert (status, headers["content-length"]) == (200, "13")
        client.send(LIVE)
        assert client.answer()[2] == b'{"live":true}'


@pytest.mark.parametrize("target", [b"/v2/health/live?a=1", b"http://a/v2/health/live", b"/v2/health/li%76e"])
def test_targets_in_other_forms(server: Served, target: bytes) -> None:
    with Client(server) as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer()[0] == 200


def test_what_was_asked_is_answered_to_who_will_say_no_more(server: Served) -> None:
    with Client(server) as client:
        client.send(b"".join(map(whole, range(50))) + post(b"Content-Length: 9") + b"{")
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.value() for _ in range(50)] == [2.0 * number for number in range(50)]
        assert client.is_over()


def test_a_client_that_does_not_read_gets_no_more_and_is_cut_off(server: Served) -> None:
    numbers = [1.2345678901234567] * 5_000
    body = json.dumps(infer_body(numbers)).encode()
    request = post(b"Content-Length: %d" % len(body)) + body
    front = server.children("front")[0]
    before = _rss_mb(front)
    with server.raw() as connection:
        connection.settimeout(0.2)
        for _ in range(800):  # 80 MB of answers, if all were made
            try:
                connection.sendall(request)
            except TimeoutError:
                break
        assert _rss_mb(front) - before < 40
        assert server.infer([1]).status == 200
        server.wait(lambda: _is_reset(connection), "the end of a client that does not read")


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def _is_reset(connection: socket.socket) -> bool:
    try:
        connection.send(b" ")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def test_a_header_cannot_become_two() -> None:
    async def make() -> bytes:
        server = HttpServer(None, slow_header_s=1, max_connections=1)  # type: ignore[arg-type]
        return server.head(200, [(b"a", b"b\r\nc: d")], 0, True)

    with pytest.raises(ValueError, match="line break"):
        asyncio.run(make())
