"""Below HTTP: peers that are slow, silent or no web server at all; certificates; and when TLS is left out."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.machine import machine
from support.other_registry import running
from support.people import Clock, quick
from support.registries import make_certificates

from intermodal.errors import InputError, RegistryError, RegistryUnreachableError
from intermodal.host import Host
from intermodal.registry.client import Registries, Repository
from intermodal.registry.reference import parse_remote


@contextmanager
def peer(act: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that listens on loopback and does `act` with each connection that sends a request."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if connection.recv(65536)[:1] != b"\x16":  # a TLS greeting gets no answer
                act(connection)

    def accept() -> None:
        while not over.is_set():
            with suppress(OSError):
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def repository(host: Host, address: str, *, attempts: int = 1, read_s: float = 0.4, plain: bool = False) -> Repository:
    manner = quick(Clock().sleep, attempts=attempts, read_s=read_s)
    return Registries(host, manner).repository(parse_remote(f"{address}/a/b"), plain_http=plain)


def drip(head: bytes) -> Callable[[socket.socket], None]:
    """One byte now and then, so that no time-out of a socket ever strikes."""

    def act(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return act


PEERS: dict[str, Callable[[socket.socket], None]] = {
    "silent": lambda c: time.sleep(5),
    "no web server": lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "hangs up": lambda c: c.close(),
    "head that trickles": drip(b"HTTP/1.1 200 OK\r\nX: "),
    "status that trickles": drip(b"HTTP/1.1 2"),
    "body that trickles": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "headers without end": lambda c: [c.sendall(b"X: y\r\n" * 1000) for _ in iter(int, 1)] and None,
    "head without end": lambda c: [c.sendall(b"x" * 10000) for _ in iter(int, 1)] and None,
    "shorter than it says": lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
}


@pytest.mark.parametrize("case", PEERS, ids=lambda name: name.replace(" ", "-"))
def test_peer_that_is_no_registry(case: str, tmp_path: Path) -> None:
    act = PEERS[case]
    if case == "headers without end":

        def act(connection: socket.socket, then: Callable[[socket.socket], None] = PEERS[case]) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            then(connection)

    with peer(act) as address, pytest.raises(RegistryUnreachableError) as caught:
        repository(machine(tmp_path), address).manifest("1")
    assert caught.value.found and address in str(caught.value)


def test_nobody_there_is_told_soon(tmp_path: Path) -> None:
    """Three attempts, however patient: the name may be wrong."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    clock = Clock()
    registries = Registries(machine(tmp_path), quick(clock.sleep))
    with pytest.raises(RegistryUnreachableError, match="cannot reach"):
        registries.repository(parse_remote(f"{address}/a/b")).manifest("1")
    assert len(clock.slept) == 2


# --- TLS ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


def context(folder: Path, *, ask_client: bool = False) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "host.crt", folder / "host.key")
    if ask_client:
        made.load_verify_locations(folder / "ca.crt")
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def settings(home: Path, address: str, *lines: str) -> None:
    place = home / ".config/intermodal/registries.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join([f'["{address}"]', *lines]) + "\n")


def test_authority_and_client_certificate_of_ours(certificates: Path, tmp_path: Path) -> None:
    with running(tls=context(certificates, ask_client=True)) as registry:
        digest = registry.put_image("a/b", "1", {"schemaVersion": 2})
        settings(tmp_path, registry.address, f'ca = "{certificates}/ca.crt"')
        with pytest.raises(RegistryError):
            repository(machine(tmp_path), registry.address, read_s=5.0).find_manifest("1")
        settings(
            tmp_path,
            registry.address,
            f'ca = "{certificates}/ca.crt"',
            f'client_cert = "{certificates}/client.crt"',
            f'client_key = "{certificates}/client.key"',
        )
        found = repository(machine(tmp_path), registry.address, read_s=5.0).find_manifest("1")
        assert found is not None and str(found.digest) == digest


def test_old_tls_that_wants_a_client_certificate_is_still_tls(certificates: Path, tmp_path: Path) -> None:
    """There the handshake itself fails without one."""
    own = context(certificates, ask_client=True)
    own.maximum_version = ssl.TLSVersion.TLSv1_2
    with running(tls=own) as registry:
        assert repository(machine(tmp_path), registry.address).transport.origin == f"https://{registry.address}"


def test_unknown_authority_on_loopback_is_no_reason_to_do_without(certificates: Path, tmp_path: Path) -> None:
    with running(tls=context(certificates)) as registry:
        with pytest.raises(RegistryError, match="not one that this machine believes") as caught:
            repository(machine(tmp_path), registry.address, attempts=4, read_s=5.0).manifest("1")
        assert registry.seen == [] and not caught.value.retriable
        assert "registries.toml" in str(caught.value)


def test_certificate_of_another_name(certificates: Path, tmp_path: Path) -> None:
    with running(tls=context(certificates)) as registry:
        place = registry.address.replace("127.0.0.1", "127.0.0.2")
        settings(tmp_path, place, f'ca = "{certificates}/ca.crt"')
        with pytest.raises(RegistryError):
            repository(machine(tmp_path), place, read_s=5.0).manifest("1")
        assert registry.seen == []


@pytest.mark.parametrize(
    ("address", "plain", "origin"),
    [
        ("registry.example", False, "https://registry.example"),
        ("registry.example:5000", False, "https://registry.example:5000"),
        ("registry.example:5000", True, "http://registry.example:5000"),
        ("192.0.2.7:5000", False, "https://192.0.2.7:5000"),
        ("localhost.example.com:80", False, "https://localhost.example.com:80"),
    ],
)
def test_tls_is_left_out_only_when_told(address: str, plain: bool, origin: str, tmp_path: Path) -> None:
    assert repository(machine(tmp_path), address, plain=plain).transport.origin == origin


def test_loopback_without_tls_needs_no_permission(tmp_path: Path) -> None:
    with running() as registry:
        assert repository(machine(tmp_path), registry.address).transport.origin == f"http://{registry.address}"


def test_settings_that_say_so(tmp_path: Path) -> None:
    settings(tmp_path, "registry.example:5000", "plain_http = true")
    assert repository(machine(tmp_path), "registry.example:5000").transport.origin == "http://registry.example:5000"
    settings(tmp_path, "registry.example:5000", 'plain_http = "yes"')
    with pytest.raises(InputError, match="registries"):
        repository(machine(tmp_path), "registry.example:5000")
