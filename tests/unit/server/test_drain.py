"""SIGTERM step by step: not ready but serving, then the last answers, then a shut door while what runs is finished."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.serving import Served, echo_root, echo_settings, infer_body, serve, write_root

SLOW = """
import time
class Model:
    def predict(self, x):
        time.sleep(3 if x[0] == 3 else 0)
        return {"y": [value * 2 for value in x]}
"""


def post(values: list[float], *lines: bytes) -> bytes:
    body = json.dumps(infer_body(values)).encode()
    head = [b"POST /v2/models/echo/infer HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join([*head, b"", body])


def is_shut(server: Served) -> bool:
    for connect in (server.raw, lambda: socket.create_connection(("127.0.0.1", server.port), 10)):
        try:
            connect().close()
        except (ConnectionRefusedError, FileNotFoundError):
            continue
        return False
    return True


def slow_root(folder: Path) -> Path:
    return write_root(folder, echo_settings(predictor="slow:Model"), app={"slow.py": SLOW})


def test_listeners_never_block_whoever_shares_them(tmp_path: Path) -> None:
    """What one process says of a listening socket counts for all; the supervisor would stand still in accept."""
    from intermodal_server.front.http import HttpServer

    async def watch() -> bool:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.setblocking(False)
        blocked = []
        create = asyncio.get_running_loop().create_server

        async def look(*given: Any, **named: Any) -> Any:
            blocked.append(os.get_blocking(listener.fileno()))
            return await create(*given, **named)

        asyncio.get_running_loop().create_server = look  # type: ignore[assignment]
        server = HttpServer(None, slow_header_s=1, max_connections=1)  # type: ignore[arg-type]
        shared = socket.socket(fileno=os.dup(listener.fileno()))  # as the front has it from the supervisor
        serving = asyncio.get_running_loop().create_task(server.serve([shared]))
        while not server.started:
            await asyncio.sleep(0.01)
        await server.shut()
        blocked.append(os.get_blocking(listener.fileno()))
        server.should_exit = True
        await serving
        listener.close()
        return any(blocked)

    assert not asyncio.run(watch())


def test_not_ready_at_once_and_all_goes_on_until_the_time_is_over(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), drain_s=1.5) as server:
        kept = server.connection()
        kept.request("GET", "/v2/health/live")
        assert kept.getresponse().read() == b'{"live":true}'
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: server.request("GET", "/v2/health/ready").status == 503, "not ready")
        assert server.request("GET", "/v2/health/ready").json == {"ready": False, "reason": "draining"}
        for _ in range(10):  # on a connection of before as on new ones, without a word of closing
            kept.request("POST", "/v2/models/echo/infer", json.dumps(infer_body([4])))
            answer = kept.getresponse()
            assert answer.status == 200 and answer.getheader("connection") is None and answer.read()
            assert server.infer([5]).headers.get("connection") is None
            assert server.request("GET", "/v2/health/live").status == 200
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("mode", ["workers", "thread"])
def test_the_door_is_shut_while_the_last_request_is_answered(tmp_path: Path, mode: str) -> None:
    with serve(slow_root(tmp_path), tcp=True, drain_s=0, mode=mode) as server:
        replies = []
        thread = threading.Thread(target=lambda: replies.append(server.infer([3])))
        thread.start()
        server.wait(lambda: len(server.children("front")) == 1 and not time.sleep(0.3), "the request to begin")
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: is_shut(server), "the door to be shut")
        assert thread.is_alive(), "it was shut only when all was over"
        thread.join(60)
        assert replies[0].status == 200 and replies[0].headers["connection"] == "close"
        assert server.process.wait(60) == 0


def test_who_stands_in_line_when_the_door_is_shut_is_answered(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), drain_s=0) as server:
        front = server.children("front")[0]
        os.kill(front, signal.SIGSTOP)
        line = [server.raw() for _ in range(50)]
        for number, connection in enumerate(line):
            connection.sendall(post([number]))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # the order to drain is there before the front wakes up
        os.kill(front, signal.SIGCONT)
        for number, connection in enumerate(line):
            answer = connection.makefile("rb").read()
            assert b'"data":[%.1f]' % (2.0 * number) in answer and b"connection: close\r\n" in answer, answer
            connection.close()
        assert server.process.wait(60) == 0


def test_a_request_that_has_begun_to_come_is_answered(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), drain_s=0) as server:
        used, fresh = server.raw(), server.raw()
        used.sendall(post([1]))
        assert b'"data":[2.0]' in used.recv(4096)
        for connection in (used, fresh):
            connection.sendall(post([6])[:40])
        assert server.request("GET", "/v2/health/live").status == 200
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: is_shut_unix(server), "the door to be shut")
        for connection in (used, fresh):
            connection.sendall(post([6])[40:])
            answer = connection.makefile("rb").read()
            assert b'"data":[12.0]' in answer and b"connection: close\r\n" in answer
            connection.close()
        assert server.process.wait(60) == 0


def is_shut_unix(server: Served) -> bool:
    try:
        server.raw().close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False
