"""The registry on a socket: streams, many clients, broken ones, and an end without traces."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.cli import environment, intermodal

from intermodal.cli.serve_store import commands_on_nodes, files_for
from intermodal.errors import InputError, PortTakenError
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import manifest_bytes
from intermodal.registry.loopback import StoreServer

BIG_BYTES = 192 << 20


def fill(store: Store, size_bytes: int = 1 << 20, name: str = "big:1") -> Digest:
    """The digest of the one layer of an image in `store`."""
    with store.writer() as writer:
        for number in range(size_bytes >> 20):
            writer.write(number.to_bytes(4, "little") * (1 << 18))
        layer, size = writer.commit()
    info = LayerInfo(layer, layer, size, size)
    config = store.put_bytes(config_bytes(layers=[info], architecture="amd64", python="3.11", labels={}))
    manifest = manifest_bytes(Descriptor(CONFIG, *config), [Descriptor(LAYER_GZIP, layer, size)])
    store.tag(name, Descriptor(MANIFEST, *store.put_bytes(manifest)))
    return layer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open_or_create()


@pytest.fixture
def server(store: Store) -> Iterator[StoreServer]:
    with StoreServer(store) as running:
        yield running


def talk(server: StoreServer, *data: bytes) -> bytes:
    """Everything a server says to some bytes."""
    with socket.create_connection((server.address, server.port), 20) as connection:
        for piece in data:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_head_says_what_get_would_and_a_connection_is_used_again(server: StoreServer, store: Store) -> None:
    layer = fill(store)
    connection = http.client.HTTPConnection(server.address, server.port, timeout=20)
    for path in ("/v2/", "/v2/big/manifests/1", f"/v2/big/blobs/{layer}", "/v2/none/manifests/1", "/v2/big/tags/list"):
        told = []
        for method in ("HEAD", "GET"):
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            told.append((answer.status, {k: v for k, v in answer.getheaders() if k != "Date"}))
        assert told[0] == told[1]
        assert told[1][1]["Content-Length"] == str(len(body))
    connection.close()


def test_many_clients_at_once_get_whole_blobs_in_little_memory(store: Store) -> None:
    layer = fill(store, BIG_BYTES)
    with StoreServer(store) as server:

        def fetch(number: int) -> str:
            connection = http.client.HTTPConnection(server.address, server.port, timeout=60)
            start = number << 20
            connection.request("GET", f"/v2/big/blobs/{layer}", headers={"Range": f"bytes={start}-"})
            answer = connection.getresponse()
            assert answer.status == 206
            hasher, size = hashlib.sha256(), 0
            while piece := answer.read(1 << 18):
                hasher.update(piece)
                size += len(piece)
            assert size == BIG_BYTES - start
            return hasher.hexdigest()

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(fetch, [0] * 4 + [188] * 28))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert found[:4] == [layer.hex] * 4
    assert len(set(found[4:])) == 1
    assert grown < 64 << 10, "kilobytes: a blob went through memory"


def test_a_client_that_leaves_disturbs_nobody(server: StoreServer, store: Store) -> None:
    layer = fill(store, 32 << 20)
    for _ in range(20):
        with socket.create_connection((server.address, server.port), 20) as connection:
            connection.sendall(f"GET /v2/big/blobs/{layer} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            connection.recv(100)
    assert talk(server, b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n{}")


def test_a_body_is_never_taken_for_the_next_request(server: StoreServer, store: Store) -> None:
    fill(store)
    inner = b"GET /v2/big/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for head in (b"Content-Length: %d\r\n" % len(inner), b"Transfer-Encoding: chunked\r\n"):
        for method in (b"GET", b"POST"):
            told = talk(server, method + b" /v2/ HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n" + inner)
            assert told.count(b"HTTP/1.1 ") == 1
            assert b"Connection: close" in told


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"GET  /v2/ HTTP/1.1 more\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /v2/ HTTP/1.1\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
        b"BREW /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET //etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_request_ends_the_connection_without_telling_anything(server: StoreServer, data: bytes) -> None:
    told = talk(server, data)
    assert b"root:" not in told
    assert b"Traceback" not in told
    assert b"Python" not in told
    if told:
        assert told.split(b" ")[1][:1] in (b"4", b"5") or b'"errors"' in told
    assert b" 200 OK" in talk(server, b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_more_connections_than_there_may_be_are_told_to_come_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intermodal.registry.loopback.MAX_CONNECTIONS", 2)
    monkeypatch.setattr("intermodal.registry.loopback._WAIT_S", 0.05)
    with StoreServer(store) as server:
        held = [socket.create_connection((server.address, server.port), 20) for _ in range(2)]
        third = socket.create_connection((server.address, server.port), 20)
        assert third.recv(100).startswith(b"HTTP/1.1 503 ")
        for connection in (*held, third):
            connection.close()


def test_addresses_that_cannot_be_had(store: Store) -> None:
    with StoreServer(store) as server, pytest.raises(PortTakenError, match=str(server.port)):
        StoreServer(store, port=server.port)
    with pytest.raises(InputError, match=r"192\.0\.2\.1"):
        StoreServer(store, address="192.0.2.1")


def started(home: Path, *words: str) -> tuple[subprocess.Popen[str], dict[str, object]]:
    """`intermodal serve-store --json` once it has told its one document."""
    process = subprocess.Popen(
        [sys.executable, "-m", "intermodal", "serve-store", "--port", "0", "--json", *words],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            break
    return process, json.loads("".join(lines))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_tells_what_to_type_answers_and_ends_cleanly(tmp_path: Path, number: int) -> None:
    layer = fill(Store(tmp_path / "data/intermodal/store").open_or_create(), 64 << 20)
    process, told = started(tmp_path)
    try:
        port = int(str(told["url"]).rpartition(":")[2])
        assert told["registry"] == f"localhost:{port}"
        assert isinstance(told["images"], list)
        assert [image["reference"] for image in told["images"]] == [f"localhost:{port}/big:1"]
        assert isinstance(told["commands"], dict)
        assert told["commands"]["docker"] == f"docker pull localhost:{port}/big:1"
        assert any("registries.yaml" in path for path in told["files"])  # type: ignore[attr-defined]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/v2/big/blobs/{layer}")
        answer = connection.getresponse()
        first = answer.read(1000)
        process.send_signal(number)
        assert str(Digest.of(first + answer.read())) == str(layer), "a download under way is finished"
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        assert "answered 1 requests with 67.1 MB" in err
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), 5)
    finally:
        process.kill()
        process.communicate()


def test_a_second_interrupt_ends_a_download_at_once(tmp_path: Path) -> None:
    layer = fill(Store(tmp_path / "data/intermodal/store").open_or_create(), 64 << 20)
    process, told = started(tmp_path)
    assert process.stderr is not None
    try:
        port = int(str(told["url"]).rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(f"GET /v2/big/blobs/{layer} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            connection.recv(100)
            process.send_signal(signal.SIGINT)
            for line in process.stderr:
                if "once more" in line:
                    break
            process.send_signal(signal.SIGINT)
            assert process.wait(8) == 0, "the grace is longer than that"
    finally:
        process.kill()
        process.communicate()


def test_an_address_of_others_is_warned_about_and_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    process, told = started(tmp_path, "--host", "0.0.0.0")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert told["images"] == []
    assert isinstance(told["warnings"], list)
    assert "can read every image" in told["warnings"][0]
    assert isinstance(told["commands"], dict)
    assert "kind get nodes" in told["commands"]["kind"]
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        done = intermodal("serve-store", "--port", str(taken.getsockname()[1]), home=tmp_path)
    assert done.code == 3
    assert "cannot listen" in done.err
    assert "--port 0" in done.err


def test_what_is_typed_for_nodes_writes_the_file_that_is_meant(tmp_path: Path, server: StoreServer) -> None:
    for name, words in commands_on_nodes(server).items():
        folder = tmp_path / name
        for node, here in [
            ("/etc/containerd", str(folder)),
            ("docker exec $node ", ""),
            ("$(kind get nodes)", "one"),
            ("minikube ssh ", "sh -c "),
            ("sudo ", ""),
        ]:
            words = words.replace(node, here)
        subprocess.run(["sh", "-c", words], check=True)
        (content,) = (text for path, text in files_for(server, "x").items() if path.startswith("containerd"))
        assert (folder / f"certs.d/localhost:{server.port}/hosts.toml").read_text() == content


def test_threads_and_sockets_are_gone_afterwards(store: Store) -> None:
    fill(store)
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    with StoreServer(store) as server:
        idle = [socket.create_connection((server.address, server.port), 20) for _ in range(5)]
        for connection in idle:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1)
    for connection in idle:
        while connection.recv(1 << 16):
            pass  # the rest of the answer, then the end
        connection.close()
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(10)
    assert not set(threading.enumerate()) - threads  # one of an earlier test may end meanwhile
    assert len(os.listdir("/proc/self/fd")) <= files
