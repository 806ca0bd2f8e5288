"""From loopback to a Unix socket: half-close, large bodies both ways, many at once, and hostile sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.cli import world_folder

from intermodal.engine.forward import Forwarder
from intermodal.engine.runtime import RuntimeFolder, connect_unix
from intermodal.errors import EngineError
from intermodal.host import read

Talk = Callable[[socket.socket], None]


@pytest.fixture
def forward(tmp_path: Path) -> Iterator[Callable[[Talk], int]]:
    """Starts a server that talks so on a Unix socket, and a forwarder to it; gives the port."""
    closing: list[Callable[[], None]] = []

    def start(talk: Talk) -> int:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen(64)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        forwarder = Forwarder(0)
        forwarder.start(tmp_path / "s")
        closing.extend([forwarder.close, lambda: listener.shutdown(socket.SHUT_RDWR), listener.close])
        return forwarder.port

    yield start
    for close in closing:
        close()


def everything(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def echo_after_end(connection: socket.socket) -> None:
    """Says nothing before the other side has finished."""
    with connection:
        connection.sendall(everything(connection))


def echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def test_half_close_and_large_bodies(forward: Callable[[Talk], int]) -> None:
    port = forward(echo_after_end)
    sent = os.urandom(9_000_001)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        writer = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
        writer.start()
        received = everything(client)
        writer.join()
    assert received == sent


def test_conversation_in_small_pieces(forward: Callable[[Talk], int]) -> None:
    with socket.create_connection(("127.0.0.1", forward(echo)), timeout=60) as client:
        for number in range(200):
            said = b"%d" % number
            client.sendall(said)
            assert client.recv(100) == said


def test_many_at_once_are_not_mixed_up(forward: Callable[[Talk], int]) -> None:
    port = forward(echo_after_end)
    clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(150)]
    for number, client in enumerate(clients):
        client.sendall(b"%d " % number * 1000)
    for client in reversed(clients):
        client.shutdown(socket.SHUT_WR)
    for number, client in enumerate(clients):
        assert everything(client) == b"%d " % number * 1000
        client.close()


def test_queue_inside_that_is_full_makes_callers_wait(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)
    forwarder = Forwarder(0)
    forwarder.start(tmp_path / "s")
    with listener:
        clients = [socket.create_connection(("127.0.0.1", forwarder.port), timeout=60) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
            client.shutdown(socket.SHUT_WR)
        filling: list[socket.socket] = []
        with pytest.raises(BlockingIOError):
            while True:  # until nothing fits any more
                filling.append(connect_unix(tmp_path / "s", 0.05))
                filling[-1].shutdown(socket.SHUT_WR)
        threading.Thread(target=lambda: [echo_after_end(listener.accept()[0]) for _ in range(23)], daemon=True).start()
        assert [everything(client) for client in clients] == [b"%d" % number for number in range(20)]
        for client in (*clients, *filling):
            client.close()
        forwarder.close()


def test_slow_reader_does_not_grow_memory_nor_stop_others(forward: Callable[[Talk], int]) -> None:
    sent = threading.Event()
    total = 0

    def flood(connection: socket.socket) -> None:
        nonlocal total
        if connection.recv(5) != b"flood":
            connection.sendall(b"hello")
            connection.close()
            return
        connection.settimeout(1.0)
        try:
            while total < 64 << 20:
                total += connection.send(bytes(1 << 16))
        except TimeoutError:
            sent.set()

    port = forward(flood)
    with socket.create_connection(("127.0.0.1", port)) as lazy:
        lazy.sendall(b"flood")
        assert sent.wait(60), "nothing held the writer back"
        assert total < 32 << 20
        with socket.create_connection(("127.0.0.1", port), timeout=60) as other:
            other.sendall(b"other")
            assert everything(other) == b"hello"


def test_client_that_vanishes_frees_the_server(forward: Callable[[Talk], int]) -> None:
    ended = threading.Event()

    def wait_for_end(connection: socket.socket) -> None:
        everything(connection)
        ended.set()

    with socket.create_connection(("127.0.0.1", forward(wait_for_end))) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not close
        client.sendall(b"x")
    assert ended.wait(60)


def test_nobody_inside_closes_the_connection(tmp_path: Path) -> None:
    forwarder = Forwarder(0)
    forwarder.start(tmp_path / "nothing")
    try:
        with socket.create_connection(("127.0.0.1", forwarder.port), timeout=60) as client:
            assert client.recv(1) == b""
    except ConnectionResetError:
        pass
    finally:
        forwarder.close()
        forwarder.close()


def test_link_to_another_socket_is_not_followed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as secret:
        secret.bind(str(tmp_path / "docker.sock"))
        secret.listen()
        (tmp_path / "serve.sock").symlink_to("docker.sock")
        with pytest.raises(ConnectionRefusedError, match="no socket"):
            connect_unix(tmp_path / "serve.sock")
        connect_unix(tmp_path / "docker.sock").close()


def test_socket_in_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    before = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(deep)
        try:
            listener.bind("s")
        finally:
            os.chdir(before)
        listener.listen()
        connect_unix(deep / "s").close()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: a socket below a long one would not fit, and other folders are taken then."""
    with world_folder() as folder:
        yield folder


def test_runtime_folder_is_private_and_swept(short: Path) -> None:
    host = replace(read(), environment={"TMPDIR": str(short)})
    first = RuntimeFolder(host)
    second = RuntimeFolder(host)
    assert first.path.exists() and second.path.exists()  # the living are left alone
    assert first.path.stat().st_mode & 0o777 == 0o700
    (host.runtime_dir / "leftover").mkdir()
    (host.runtime_dir / "leftover" / "serve.sock").touch()
    third = RuntimeFolder(host)
    assert not (host.runtime_dir / "leftover").exists()
    for folder in (first, second, third):
        folder.remove()
        folder.remove()
    assert list(host.runtime_dir.iterdir()) == []


@pytest.mark.parametrize("how", ["link", "open"])
def test_runtime_folder_of_somebody_else_is_refused(short: Path, how: str) -> None:
    host = replace(read(), environment={"TMPDIR": str(short)})
    if how == "link":
        (short / "elsewhere").mkdir()
        host.runtime_dir.symlink_to(short / "elsewhere")
    else:
        host.runtime_dir.mkdir()
        host.runtime_dir.chmod(0o777)
    with pytest.raises(EngineError, match="not safe"):
        RuntimeFolder(host)
