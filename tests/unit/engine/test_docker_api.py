"""The client of the Docker API against a daemon of a few lines on a real Unix socket."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socketserver
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.hosts import empty_host

from intermodal.engine.api import ApiError, DockerApi, demultiplex, escaped, find_socket
from intermodal.engine.docker import request
from intermodal.engine.driver import HARDENED, Spec
from intermodal.errors import EngineError

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def daemon() -> Iterator[Callable[..., DockerApi]]:
    """Call it with an answer, and get a client of a daemon that gives this answer."""
    folder = tempfile.TemporaryDirectory(prefix="im-")  # pytest's own paths are too long for a socket
    servers: list[Daemon] = []

    def start(answer: Handler, version: str = "1.41") -> DockerApi:
        class Talk(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                if self.path == "/version":
                    say(self, 200, {"ApiVersion": version})
                else:
                    answer(self)

            do_GET = do_POST = do_DELETE = handle_one

            def log_message(self, *_: object) -> None: ...
            def address_string(self) -> str:
                return ""

        path = Path(folder.name) / f"{len(servers)}.sock"
        servers.append(Daemon(str(path), Talk))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return DockerApi(path)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    folder.cleanup()


def say(talk: http.server.BaseHTTPRequestHandler, status: int, document: object) -> None:
    data = json.dumps(document).encode()
    talk.send_response(status)
    talk.send_header("Content-Length", str(len(data)))
    talk.end_headers()
    talk.wfile.write(data)


def chunks(talk: http.server.BaseHTTPRequestHandler) -> bytes:
    data = b""
    while size := int(talk.rfile.readline(), 16):
        data += talk.rfile.read(size)
        talk.rfile.readline()
    talk.rfile.readline()
    return data


@pytest.mark.parametrize(("offered", "spoken"), [("1.41", "v1.41"), ("1.9", "v1.9"), ("1.52", "v1.47")])
def test_the_version_is_the_daemons_but_never_newer_than_ours(
    daemon: Callable[..., DockerApi], offered: str, spoken: str
) -> None:
    paths = []

    def answer(talk: http.server.BaseHTTPRequestHandler) -> None:
        paths.append(talk.path)
        say(talk, 200, [])

    api = daemon(answer, offered)
    assert api.json("GET", "/containers/json", query={"all": "1"}) == []
    assert paths == [f"/{spoken}/containers/json?all=1"]


def test_a_refusal_carries_the_daemons_own_words(daemon: Callable[..., DockerApi]) -> None:
    api = daemon(lambda talk: say(talk, 409, {"message": "conflict: in use"}))
    with pytest.raises(ApiError) as caught:
        api.json("DELETE", "/images/x")
    assert (caught.value.status, caught.value.found) == (409, ("conflict: in use",))


def test_bodies_are_streamed_and_answers_are_read_line_by_line(daemon: Callable[..., DockerApi]) -> None:
    got = []

    def answer(talk: http.server.BaseHTTPRequestHandler) -> None:
        got.append(chunks(talk))
        data = b'{"stream":"one"}\r\n\n{"errorDetail":{"message":"bad layer"},"error":"bad layer"}'
        talk.send_response(200)
        talk.send_header("Content-Length", str(len(data)))
        talk.end_headers()
        talk.wfile.write(data)

    pieces = (bytes([n]) * 70_000 for n in range(5))
    lines = list(daemon(answer).streamed_json("POST", "/images/load", pieces, {"quiet": "1"}))
    assert got == [b"".join(bytes([n]) * 70_000 for n in range(5))]
    assert lines[1]["error"] == "bad layer"


def test_a_daemon_that_refuses_early_is_still_heard(daemon: Callable[..., DockerApi]) -> None:
    def answer(talk: http.server.BaseHTTPRequestHandler) -> None:
        say(talk, 500, {"message": "no space left on device"})
        talk.close_connection = True

    with pytest.raises(EngineError) as caught:
        list(daemon(answer).streamed_json("POST", "/images/load", (bytes(1 << 20) for _ in range(20)), {}))
    assert "no space left" in str(caught.value) or "broke off" in str(caught.value)


def test_a_daemon_that_dies_in_the_middle_is_an_engine_error(daemon: Callable[..., DockerApi]) -> None:
    def answer(talk: http.server.BaseHTTPRequestHandler) -> None:
        talk.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        talk.close_connection = True

    with pytest.raises(EngineError, match="broke off"):
        daemon(answer).json("GET", "/info")


def test_no_daemon_and_no_permission_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not running") as caught:
        DockerApi(tmp_path / "none.sock").json("GET", "/info")
    assert "systemctl start docker" in caught.value.next[0]


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


def test_output_is_taken_apart_and_a_cut_piece_left_out() -> None:
    whole = frame(1, b"out\n") + frame(2, b"") + frame(2, b"err")
    assert list(demultiplex(whole)) == [(1, b"out\n"), (2, b""), (2, b"err")]
    for cut in range(len(whole)):
        pieces = list(demultiplex(whole[:cut]))
        assert pieces == [(1, b"out\n"), (2, b""), (2, b"err")][: len(pieces)]


def test_names_in_paths_cannot_become_queries() -> None:
    assert escaped("localhost/a b?c:1@sha256:0") == "localhost/a%20b%3Fc:1@sha256:0"


def test_where_the_daemon_listens(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    given = replace(host, environment={"DOCKER_HOST": "unix:///x/docker.sock"})
    assert find_socket(given) == Path("/x/docker.sock")
    for elsewhere in ("ssh://me@there", "tcp://10.0.0.1:2375"):
        with pytest.raises(EngineError, match="cannot use Docker through"):
            find_socket(replace(host, environment={"DOCKER_HOST": elsewhere}))
    folder = host.home / ".docker"
    meta = folder / "contexts/meta" / hashlib.sha256(b"desk").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": "unix:///desk.sock"}}}))
    (folder / "config.json").write_text(json.dumps({"currentContext": "desk"}))
    assert find_socket(host) == Path("/desk.sock")
    assert find_socket(replace(host, environment={"DOCKER_CONTEXT": "default"})) != Path("/desk.sock")
    (folder / "config.json").write_text("[")
    assert find_socket(host) != Path("/desk.sock")


@pytest.mark.skipif(Path("/var/run/docker.sock").exists(), reason="a daemon of this machine would be found first")
def test_a_rootless_daemon_is_found_by_the_runtime_folder(tmp_path: Path) -> None:
    (tmp_path / "docker.sock").touch()
    host = replace(empty_host(tmp_path), environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert find_socket(host) == tmp_path / "docker.sock"


SPEC = Spec(
    "sha256:0", "one", HARDENED, {"A": "1"}, {"l": "v"}, Path("/x"), {"/run/intermodal": Path("/x/io")}, False, None
)


def test_every_measure_is_asked_of_docker() -> None:
    body = request(SPEC)
    host = body["HostConfig"]
    assert isinstance(host, dict)
    assert body["User"] == "65532:65532"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"], "the default system call filter stays"
    assert host["NetworkMode"] == "none"
    assert host["IpcMode"] == "private"
    assert host["PidsLimit"] == HARDENED.pids
    assert "PortBindings" not in host
    assert not host.get("Privileged")
    assert "nosuid,nodev" in host["Tmpfs"]["/tmp"]


def test_limits_and_ports_are_asked_for_when_wanted() -> None:
    policy = replace(HARDENED, memory_bytes=1 << 30, cpus=1.5, seccomp=False)
    host = request(replace(SPEC, policy=policy, egress=True, publish=8081))["HostConfig"]
    assert isinstance(host, dict)
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (1 << 30, 1 << 30, 1_500_000_000)
    assert host["PortBindings"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8081"}]}
    assert "seccomp=unconfined" in host["SecurityOpt"]
    assert os.fspath(SPEC.binds["/run/intermodal"]) == host["Mounts"][0]["Source"]
