"""Attack list 3: clients that send slowly, in crumbs, or never read: others are answered, memory is bounded."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile.requests.raw import exchange, head, hung_up, read_all, rss_bytes, statuses
from support.serving import PATIENCE_S, Served, echo_root, infer_body, serve

MIB = 1 << 20
GOOD = json.dumps(infer_body([1])).encode()
CRUMBS = b"6\r\n      \r\n" * 5000
CHUNKED = b"Transfer-Encoding: chunked"


def answered(server: Served) -> None:
    """Somebody who behaves gets an answer now."""
    assert server.infer([1]).json["outputs"][0]["data"] == [2.0]


def until(condition: Callable[[], bool], server: Served) -> None:
    """Ask as somebody who behaves until `condition` holds; every answer must be good."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        answered(server)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root), max_request_bytes=16 * MIB, slow_body_s=2) as running:
        front = running.children("front")
        yield running
        answered(running)
        assert running.children("front") == front


# --- senders ----------------------------------------------------------------------------------------------------------


def test_50_mb_in_six_byte_chunks_take_no_more_memory_than_they_hold(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), max_request_bytes=64 * MIB) as server:
        front = server.children("front")[0]
        with server.raw() as connection:
            connection.sendall(head(CHUNKED) + CRUMBS * 20)
            answered(server)
            before = rss_bytes(front)
            for number in range(1650):
                connection.sendall(CRUMBS)
                if number % 150 == 0:
                    answered(server)
            held = 1650 * 6 * 5000
            grown = rss_bytes(front) - before
            assert grown < held * 9 / 8 + 8 * MIB, grown  # a growing buffer keeps an eighth in reserve
            connection.sendall(b"0\r\n\r\n")
            assert statuses(connection.recv(100)) == [400]
        answered(server)


def test_50_mb_in_six_byte_chunks_beyond_the_limit_leave_memory_flat(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), max_request_bytes=MIB) as server:
        front = server.children("front")[0]
        answered(server)
        before = rss_bytes(front)
        sent = 0
        while sent < 50 * MIB:
            with server.raw() as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(head(CHUNKED))
                while sent < 50 * MIB:
                    sent += 6 * 5000
                    connection.sendall(CRUMBS)
        answered(server)
        assert rss_bytes(front) - before < 8 * MIB


def test_slow_headers_and_slow_bodies_are_closed_while_others_are_served(server: Served) -> None:
    slow = [server.raw() for _ in range(30)]
    for number, connection in enumerate(slow):
        connection.setblocking(False)
        begin = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
        connection.send(begin + (b"", b"Content-Length: 50\r\n\r\n{", CHUNKED + b"\r\n\r\n1\r\n{\r\n")[number % 3])
    silent = server.raw()
    ended: dict[int, bytes] = {}

    def all_ended() -> bool:
        for number, connection in enumerate(slow):
            if number in ended:
                continue
            try:
                ended[number] = connection.recv(100)
            except BlockingIOError:
                with contextlib.suppress(OSError):
                    connection.send((b"a", b" ", b"1\r\n \r\n")[number % 3])  # a byte now and then does not help
            except ConnectionError:
                ended[number] = b""
        return len(ended) == len(slow)

    until(all_ended, server)
    assert all(statuses(answer) in ([408], []) for answer in ended.values())
    assert sum(statuses(answer) == [408] for answer in ended.values()) > 20
    assert statuses(silent.recv(100)) == [408]
    for connection in [*slow, silent]:
        connection.close()


def test_a_body_that_begins_fast_and_then_stalls_is_ended_too(server: Served) -> None:
    with server.raw() as connection:
        connection.sendall(head(b"Content-Length: %d" % (12 * MIB)) + b" " * (10 * MIB))
        until(lambda: hung_up(connection), server)
        assert statuses(read_all(connection)) == [408]


def test_a_slow_but_steady_body_is_taken(server: Served) -> None:
    body = GOOD[:-1] + b" " * (384 << 10) + b"}"
    with server.raw() as connection:
        connection.sendall(head(b"Content-Length: %d" % len(body), b"Connection: close"))
        for start in range(0, len(body), 8 << 10):
            connection.sendall(body[start : start + (8 << 10)])
            time.sleep(0.1)  # 80 KiB/s for 4.8 s, twice as long as a body may do nothing
        assert statuses(read_all(connection)) == [200]


def test_bodies_that_are_not_complete_are_bounded_together(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), max_request_bytes=200 * MIB) as server:
        front = server.children("front")[0]
        crowd = [server.raw() for _ in range(8)]
        refused = 0

        def send(connection: socket.socket) -> None:
            nonlocal refused
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(head(b"Content-Length: %d" % (200 * MIB)))
                for _ in range(90):
                    connection.sendall(b" " * MIB)
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                refused += statuses(connection.recv(4096)) == [503]

        threads = [threading.Thread(target=send, args=(connection,)) for connection in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert refused >= 2
        answered(server)
        assert rss_bytes(front) < 700 * MIB
        for connection in crowd:
            connection.close()
        until(lambda: rss_bytes(front) < 200 * MIB, server)


def test_a_client_that_leaves_in_the_middle_costs_nothing(server: Served) -> None:
    for _ in range(20):
        with server.raw() as connection:
            connection.sendall(head(b"Content-Length: 100") + b"{")
    with server.raw() as connection:
        connection.sendall(head(b"Content-Length: %d" % len(GOOD)) + GOOD)
    answered(server)


# --- readers ----------------------------------------------------------------------------------------------------------


def large_request(values: int) -> bytes:
    """A request whose answer is 8 bytes a value."""
    data = struct.pack("<d", 1.0) * values
    item = {"name": "x", "datatype": "FP64", "shape": [values], "parameters": {"binary_data_size": len(data)}}
    document = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    length = b"Inference-Header-Content-Length: %d" % len(document)
    return head(b"Content-Length: %d" % (len(document) + len(data)), length) + document + data


def test_who_does_not_read_the_answer_is_hung_up_on(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), slow_body_s=3, max_request_bytes=16 * MIB) as server:
        front = server.children("front")[0]
        answered(server)
        before = rss_bytes(front)
        for _ in range(3):
            lazy = [server.raw() for _ in range(6)]
            for connection in lazy:
                connection.sendall(large_request(1_000_000))
            until(lambda lazy=lazy: all(map(hung_up, lazy)), server)
            for connection in lazy:
                got = read_all(connection)
                assert statuses(got[:20]) == [200] and len(got) < 8_000_000
                connection.close()
        until(lambda: rss_bytes(front) - before < 100 * MIB, server)  # three rounds would hold 150


def test_pipelining_without_reading_holds_two_answers_at_most(server: Served) -> None:
    front = server.children("front")[0]
    before = rss_bytes(front)
    with server.raw() as connection:
        connection.setblocking(False)
        request, worst = large_request(250_000) * 12, 0

        def ended() -> bool:
            nonlocal request, worst
            with contextlib.suppress(BlockingIOError, ConnectionError):
                request = request[connection.send(request) :] if request else request
            worst = max(worst, rss_bytes(front) - before)
            return hung_up(connection)

        until(ended, server)
        assert request, "all requests were taken from a client that reads no answer"
    assert worst < 64 * MIB


def test_a_slow_but_steady_reader_gets_everything(server: Served) -> None:
    got = 0
    with server.raw() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(large_request(60_000).replace(b"Host: a", b"Host: a\r\nConnection: close"))
        while data := connection.recv(8192):
            got += len(data)
            time.sleep(0.08)  # 100 KiB/s, so that it takes twice as long as an answer may lie still
    assert got > 480_000


def test_a_drain_does_not_wait_for_somebody_who_does_not_read(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), slow_body_s=1, max_request_bytes=16 * MIB) as server, server.raw() as connection:
        connection.sendall(large_request(1_000_000))
        server.wait(lambda: len(connection.recv(1, socket.MSG_PEEK)) == 1, "the beginning of the answer")
        assert server.stop() == 0


# --- connections ------------------------------------------------------------------------------------------------------


def test_one_connection_too_many_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), max_connections=60, slow_body_s=4) as server:
        good = server.raw()
        good.sendall(head(b"Content-Length: %d" % len(GOOD)) + GOOD)
        assert statuses(good.recv(4096)) == [200]
        crowd = []
        for number in range(300):
            connection = server.raw()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall((b"", b"GET / HT", head(b"Content-Length: 50") + b"{")[number % 3])
            crowd.append(connection)
            if number % 10 == 0:
                answered(server)
        assert sum(map(hung_up, crowd)) >= 200
        good.sendall(head(b"Content-Length: %d" % len(GOOD)) + GOOD)
        assert statuses(good.recv(4096)) == [200], "who has asked before goes after those who never did"
        for connection in [good, *crowd]:
            connection.close()


def test_when_all_connections_are_being_answered_one_more_is_refused(tmp_path: Path) -> None:
    hang = json.dumps(infer_body([555])).encode()
    with serve(echo_root(tmp_path), max_connections=20, timeout_s=5) as server:
        busy = [server.raw() for _ in range(20)]
        for connection in busy:
            connection.sendall(head(b"Content-Length: %d" % len(hang)) + hang)
        server.wait(lambda: statuses(exchange(server, b"")) == [503], "503")
        for connection in busy:
            connection.close()


def test_a_connection_ends_after_its_share_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz import front

    from intermodal_server.front import limits

    assert limits.MAX_REQUESTS_PER_CONNECTION <= 100_000
    monkeypatch.setattr(limits, "MAX_REQUESTS_PER_CONNECTION", 3)
    live = head(target=b"/v2/health/live", method=b"GET")
    out, _ = front.LOOP.run_until_complete(front._converse(live * 10, 0))
    assert statuses(out) == [200, 200, 200]
    assert out.count(b"connection: close") == 1 and b"connection: close" in out.rpartition(b"HTTP/1.1")[2]
