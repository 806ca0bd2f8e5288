"""The supervisor's parts one by one: circuit, page of answers, bounded output, first lines of requests."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import CODE_DIR

from intermodal_server.log import Log
from intermodal_server.pulse import Pulse, new_page
from intermodal_server.supervisor import output
from intermodal_server.supervisor.circuit import CLOSED, DEATHS, GOOD, HALF_OPEN, LONGEST_S, OPEN, Circuit
from intermodal_server.supervisor.output import BURST_BYTES, LINE_BYTES, Output
from intermodal_server.supervisor.stand_in import LAST_S, LINE_S, MAX_CONNECTIONS, StandIn, Truth, probe_of
from intermodal_server.supervisor.stand_in import LINE_BYTES as FIRST_LINE_BYTES

# --- the circuit ------------------------------------------------------------------------------------------------------


def test_deaths_without_answers_open_the_circuit() -> None:
    circuit = Circuit()
    for second in range(DEATHS - 1):
        circuit.died(second, 0)
        assert circuit.state(second, 0) == CLOSED
    circuit.died(DEATHS, 0)
    assert circuit.state(DEATHS, 0) == OPEN
    assert circuit.wait_s(DEATHS) == 1.0


def test_deaths_among_good_answers_do_not() -> None:
    circuit = Circuit()
    for number in range(1000):
        circuit.died(number / 10, 20 * number)
        assert circuit.state(number / 10, 20 * number) == CLOSED


def test_rare_deaths_of_a_lazy_server_do_not() -> None:
    circuit = Circuit()
    for number in range(100):
        circuit.died(number * 20.0, 0)
        assert circuit.state(number * 20.0, 0) == CLOSED


def _opened() -> Circuit:
    circuit = Circuit()
    for _ in range(DEATHS):
        circuit.died(100.0, 7)
    return circuit


def test_half_open_after_the_pause_closed_after_good_answers_and_then_patient_again() -> None:
    circuit = _opened()
    assert circuit.state(100.9, 7) == OPEN
    assert circuit.state(101.0, 7) == HALF_OPEN
    assert circuit.state(102.0, 7 + GOOD - 1) == HALF_OPEN
    assert circuit.state(102.0, 7 + GOOD) == CLOSED
    for _ in range(DEATHS - 1):
        circuit.died(103.0, 7 + GOOD)
        assert circuit.state(103.0, 7 + GOOD) == CLOSED
    circuit.died(103.0, 7 + GOOD)
    assert circuit.wait_s(103.0) == 1.0


def test_each_failed_try_doubles_the_pause_up_to_a_bound() -> None:
    circuit, now_s, pauses = _opened(), 100.0, []
    for _ in range(9):
        pauses.append(circuit.wait_s(now_s))
        now_s += pauses[-1]
        assert circuit.state(now_s, 7) == HALF_OPEN
        circuit.died(now_s, 7)
        assert circuit.state(now_s, 7) == OPEN
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_S, LONGEST_S, LONGEST_S]


def test_deaths_while_open_change_nothing() -> None:
    circuit = _opened()
    circuit.died(100.5, 7)
    assert circuit.wait_s(100.5) == 0.5


def test_a_page_is_read_by_another_process() -> None:
    descriptor = new_page()
    page = Pulse(descriptor)
    code = f"""
import sys; sys.path.insert(0, {str(CODE_DIR.parent)!r})
from intermodal_server.pulse import Pulse
page = Pulse({descriptor})
page.answered(); page.answered(41)
import os; os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], pass_fds=[descriptor], check=False)
    os.close(descriptor)
    assert page.answers == 42
    page.close()


# --- what models print ------------------------------------------------------------------------------------------------


def printed(tmp_path: Path, chunks: list[bytes], *, gap_s: float = 0.0) -> tuple[list[str], int, int]:
    """Texts in the log, and dropped bytes and lines, after `chunks` came through a pipe."""
    reading, writing = output.pipe()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    now_s = 0.0
    out = Output(reading, Log("worker-1", log), now_s)
    for chunk in chunks:
        now_s += gap_s
        left = memoryview(chunk)
        while left:
            left = left[os.write(writing, left[: 1 << 16]) :]
            out.read(now_s)
    os.close(writing)
    out.finish(now_s)
    os.close(log)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all(line["part"] == "worker-1" for line in lines)
    dropped = [line for line in lines if "dropped_bytes" in line]
    texts = [line["text"] for line in lines if line["message"] == "printed"]
    return texts, sum(line["dropped_bytes"] for line in dropped), sum(line["dropped_lines"] for line in dropped)


def test_lines_come_through_whole_however_they_are_cut(tmp_path: Path) -> None:
    text = 'one\ntwo ü\r\n\n{"level": "forged"}\nlast'
    data = text.encode()
    for cut in range(len(data)):
        texts, dropped, _ = printed(tmp_path, [data[:cut], data[cut:]])
        assert texts == ["one", "two ü", '{"level": "forged"}', "last"]
        assert dropped == 0


def test_a_flood_is_dropped_and_counted(tmp_path: Path) -> None:
    line = b"x" * 99 + b"\n"
    texts, dropped, lines = printed(tmp_path, [line * 100_000])
    assert len(texts) == pytest.approx(BURST_BYTES / 100, rel=0.01)
    assert dropped == 100 * lines == 100 * (100_000 - len(texts))


def test_after_a_flood_there_is_room_again(tmp_path: Path) -> None:
    texts, dropped, _ = printed(tmp_path, [b"x\n" * BURST_BYTES, b"later\n", b"last\n"], gap_s=5.0)
    assert dropped > 0
    assert texts[-2:] == ["later", "last"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3 * LINE_BYTES), max_size=12), st.integers(0, 5))
def test_every_byte_is_told_or_counted(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], each: int) -> None:
    data = b"".join(b"y" * size + b"\n" for size in sizes) * each
    texts, dropped, _ = printed(tmp_path_factory.mktemp("out"), [data])
    told = sum(len(text) for text in texts)
    assert told <= BURST_BYTES + 2 * LINE_BYTES
    assert told + dropped >= data.count(b"y")
    assert all(len(text) <= LINE_BYTES for text in texts)


# --- the stand-in -----------------------------------------------------------------------------------------------------


class Door:
    """A stand-in on a Unix socket, turned by hand."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(2048)
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.truth = Truth(live=True, reason="the front is being replaced", hold=True)
        self.stand_in = StandIn(
            [self.listener], self.selector, lambda: self.truth, hold_s=30.0, ready_path="/am-i-well/"
        )
        self.clients: list[socket.socket] = []
        self.stand_in.open(0.0)

    def client(self, *pieces: bytes) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(self.path)
        self.clients.append(client)
        for piece in pieces:
            client.sendall(piece)
            self.turn()
        return client

    def turn(self, now_s: float = 0.0) -> None:
        for _ in range(3):
            for key, _ in self.selector.select(0):
                if key.fd in self.selector.get_map():
                    key.data()
        self.stand_in.tick(now_s)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.stand_in.finish()
        self.selector.close()
        self.listener.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


def received(client: socket.socket) -> tuple[int, dict[str, str], dict[str, object]]:
    """Status, headers and JSON of everything that a client got until the end."""
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    return int(first.split()[1]), headers, json.loads(body) if body else {}


PROBES = {
    b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n": (200, {"live": True}),
    b"GET /v2/health/ready HTTP/1.1\r\n\r\n": (503, {"ready": False, "reason": "the front is being replaced"}),
    b"GET /v2/health/ready?verbose=1 HTTP/1.0\n\n": (503, {"ready": False, "reason": "the front is being replaced"}),
    b"GET /am-i-well HTTP/1.1\r\n\r\n": (503, {"ready": False, "reason": "the front is being replaced"}),
    b"\r\nGET /v2/models/echo/ready HTTP/1.1\r\n\r\n": (
        503, {"name": "echo", "ready": False, "reason": "the front is being replaced"}),
    b"GET /v2/models/echo/versions/1/ready HTTP/1.1\r\n\r\n": (
        503, {"name": "echo", "ready": False, "reason": "the front is being replaced"}),
}  # fmt: skip


@pytest.mark.parametrize("request_bytes", PROBES)
def test_probes_are_answered_at_once(door: Door, request_bytes: bytes) -> None:
    status, headers, body = received(door.client(request_bytes))
    assert (status, body) == PROBES[request_bytes]
    assert headers["connection"] == "close"
    assert ("retry-after" in headers) == (status == 503)


def test_a_head_probe_gets_no_body(door: Door) -> None:
    assert received(door.client(b"HEAD /v2/health/live HTTP/1.1\r\n\r\n")) == (
        200, {"content-type": "application/json", "content-length": "13", "connection": "close"}, {},
    )  # fmt: skip


def test_live_is_false_when_it_is_not_so(door: Door) -> None:
    door.truth = Truth(live=False, reason="failed: no such file", hold=False)
    status, _, body = received(door.client(b"GET /v2/health/live HTTP/1.1\r\n\r\n"))
    assert (status, body) == (503, {"live": False, "reason": "failed: no such file"})


INFER = b"POST /v2/models/echo/infer HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize("pieces", [[INFER], [INFER[:9], INFER[9:]], [b"GET /v2 HTTP/1.1\r\n\r\n"], [b"x" * 5000]])
def test_everything_else_is_held_and_handed_on_unread(door: Door, pieces: list[bytes]) -> None:
    client = door.client(*pieces)
    assert door.stand_in.held == 1
    taken: list[socket.socket] = []

    def take(descriptor: int) -> bool:
        taken.append(socket.socket(fileno=os.dup(descriptor)))
        return True

    door.stand_in.close()
    door.stand_in.hand_over(take)
    with taken[0]:
        assert taken[0].recv(1 << 16) == b"".join(pieces)
        taken[0].sendall(b"answer")
    assert client.recv(100) == b"answer"
    assert door.stand_in.held == 0


def test_a_front_that_takes_no_more_leaves_the_rest_held(door: Door) -> None:
    for _ in range(3):
        door.client(INFER)
    takes = iter([True, False])
    door.stand_in.hand_over(lambda _: next(takes))
    assert door.stand_in.held == 2


def test_held_for_so_long_and_then_503(door: Door) -> None:
    client = door.client(INFER)
    door.turn(29.0)
    assert door.stand_in.held == 1
    door.turn(30.0)
    status, headers, body = received(client)
    assert (status, body) == (503, {"error": "not ready: the front is being replaced"})
    assert (headers["retry-after"], headers["x-intermodal-not-ready"]) == ("1", "1")


def test_503_at_once_when_no_front_is_on_its_way(door: Door) -> None:
    door.truth = Truth(live=True, reason="the model keeps dying", hold=False, retry_s=7)
    status, headers, body = received(door.client(INFER))
    assert (status, headers["retry-after"], body) == (503, "7", {"error": "not ready: the model keeps dying"})


def test_a_large_body_is_answered_not_reset(door: Door) -> None:
    door.truth = Truth(live=True, reason="why", hold=False)
    client = door.client(INFER)
    with suppress(BlockingIOError, BrokenPipeError):
        client.setblocking(False)
        client.send(b"z" * 200_000)
    client.settimeout(5)
    door.turn()
    assert received(client)[0] == 503


def test_one_who_sends_no_line_is_not_kept_forever(door: Door) -> None:
    silent, slow = door.client(), door.client(b"GET /v2/hea")
    door.turn()
    door.truth = Truth(live=True, reason="why", hold=False)
    door.turn(LINE_S)
    assert received(slow)[0] == received(silent)[0] == 503
    door.turn(LINE_S + LAST_S)
    assert door.stand_in.held == 0


def test_one_who_hangs_up_is_forgotten(door: Door) -> None:
    silent, half = door.client(), door.client(b"GET /")
    door.turn()
    silent.close()
    half.close()
    door.turn()
    assert door.stand_in.held == 1  # the end is behind bytes that are left unread; the line's time ends it
    door.turn(LINE_S)
    assert door.stand_in.held == 1
    door.turn(30.0)
    assert door.stand_in.held == 0


def test_no_more_connections_than_so_many(door: Door) -> None:
    for _ in range(MAX_CONNECTIONS + 20):
        door.client()
    for _ in range(20):
        door.turn()
    assert door.stand_in.held == MAX_CONNECTIONS
    assert door.listener not in door.selector.get_map(), "it would be woken again and again"
    door.stand_in.hand_over(lambda _: True)
    for _ in range(3):
        door.turn()
    assert door.stand_in.held == 20


@given(st.binary(max_size=300))
def test_any_first_line_is_understood_or_not(line: bytes) -> None:
    probe = probe_of(line)
    assert probe is None or b"GET" in line or b"HEAD" in line


def test_the_first_line_that_is_looked_at_is_bounded(door: Door) -> None:
    door.client(b"GET /" + b"a" * FIRST_LINE_BYTES)
    assert door.stand_in.held == 1
