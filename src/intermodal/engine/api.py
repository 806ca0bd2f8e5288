"""A small client of the Docker Engine API over its Unix socket.

Takes a `Host` for where the socket is (`DOCKER_HOST`, the current context, the usual places); hands on JSON documents
and byte streams. No library and no `docker` program: the API is plain HTTP.

Rules:
1. The version spoken is the daemon's own, at most the newest one this file was written for; an old daemon stays usable.
2. An answer outside 2xx is an `EngineError` with the daemon's own message; `ApiError.status` is there for callers that
   expect one.
3. Bodies are streamed both ways: an image never lies in memory.

Spec: Docker Engine API 1.41 to 1.47.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from intermodal.errors import EngineError
from intermodal.host import Host

NEWEST = (1, 47)
TIMEOUT_S = 60.0
SYSTEM_SOCKET = Path("/var/run/docker.sock")
Dial = Callable[[float | None], socket.socket]
_FRAME = struct.Struct(">BxxxI")  # stream (1 output, 2 error), length


class ApiError(EngineError):
    """The daemon answered, and the answer is an error."""

    def __init__(self, message: str, status: int, found: str) -> None:
        super().__init__(message, found=found)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self, dial: Dial, timeout_s: float | None) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial(self.timeout)


class DockerApi:
    """One daemon; opens a connection for each request.

    Args:
        path: its Unix socket; only told in messages when there is another way to it.
        dial: makes a connection to it, when that is not a matter of the path.
    """

    def __init__(self, path: Path, dial: Dial | None = None) -> None:
        self.path = path
        self.dial = dial or self._connect

    def _connect(self, timeout_s: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(str(self.path))
        except BaseException:
            connection.close()
            raise
        return connection

    @cached_property
    def about(self) -> Any:
        """What the daemon says of itself."""
        with self._answer("GET", "/version") as response:
            return json.loads(response.read())

    @cached_property
    def version(self) -> str:
        """The API version to speak, as it stands in paths: "v1.41"."""
        offered = tuple(int(part) for part in str(self.about["ApiVersion"]).split("."))
        major, minor = min(offered, NEWEST)
        return f"v{major}.{minor}"

    def json(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, object] | None = None,
        timeout_s: float | None = TIMEOUT_S,
    ) -> Any:
        """The document that the daemon answers; None when the answer is empty.

        Raises:
            ApiError: the daemon refused.
            EngineError: there is no daemon, or it broke off.
        """
        data = None if body is None else json.dumps(body).encode()
        with self.stream(method, path, data, query, "application/json", timeout_s) as response:
            answer = response.read()
        return json.loads(answer) if answer.strip() else None

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        query: Mapping[str, object] | None = None,
        content_type: str = "application/x-tar",
        timeout_s: float | None = TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer as a stream, closed with the block; `body` may be pieces of any length.

        Raises:
            ApiError: the daemon refused.
            EngineError: there is no daemon, or it broke off.
        """
        suffix = f"?{urlencode(query)}" if query else ""
        with self._answer(method, f"/{self.version}{path}{suffix}", body, content_type, timeout_s) as response:
            yield response

    def streamed_json(
        self, method: str, path: str, body: bytes | Iterable[bytes], query: Mapping[str, object]
    ) -> Iterator[Any]:
        """The documents of an answer that is one JSON value per line, as they come."""
        with self.stream(method, path, body, query, timeout_s=None) as response:
            for line in response:
                if line.strip():
                    yield json.loads(line)

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        content_type: str = "application/json",
        timeout_s: float | None = TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self.dial, timeout_s)
        pieces = body is not None and not isinstance(body, bytes)
        headers = {"Content-Type": content_type} if body is not None else {}
        if pieces:
            headers["Transfer-Encoding"] = "chunked"
        try:
            # a daemon that refuses early closes its end; its reason may still be read
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, headers, encode_chunked=pieces)
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                raise ApiError(f"{_name(self.path)} refused", response.status, _reason(response.read()))
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self.path, error) from error
        finally:
            connection.close()


def hijack(api: DockerApi, container: str, argv: Sequence[str], timeout_s: float) -> socket.socket:
    """A socket to the input and output of a command in a running container; its output comes in frames.

    Raises:
        ApiError: the daemon refused.
        EngineError: there is no daemon, or it broke off.
    """
    streams = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    made = api.json("POST", f"/containers/{container}/exec", {**streams, "Cmd": list(argv)})
    body = b'{"Detach": false, "Tty": false}'
    head = (
        f"POST /{api.version}/exec/{made['Id']}/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
        f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        connection = api.dial(timeout_s)
    except OSError as error:
        raise unreachable(api.path, error) from error
    try:
        connection.sendall(head.encode() + body)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the command's
            byte = connection.recv(1)
            if not byte or len(answer) > 1 << 16:
                raise ConnectionResetError("no answer to a command")
            answer += byte
        status = int(answer.split(b" ", 2)[1])
        if status not in (101, 200):
            raise ApiError("Docker refused", status, "a command in a container was not started")
    except (OSError, ValueError, IndexError) as error:
        connection.close()
        raise unreachable(api.path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def demultiplex(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The pieces of a container's output: (1 for output or 2 for error, bytes); a cut last piece is left out."""
    position = 0
    while position + _FRAME.size <= len(data):
        stream, length = _FRAME.unpack_from(data, position)
        position += _FRAME.size
        if position + length > len(data):
            return
        yield stream, data[position : position + length]
        position += length


def escaped(name: str) -> str:
    """An image name as part of a path."""
    return quote(name, safe="/:@")


def _reason(body: bytes) -> str:
    with suppress(ValueError, AttributeError):
        return str(json.loads(body).get("message", ""))[:2000]
    return body[:2000].decode("utf-8", "replace").strip()


def _name(path: Path) -> str:
    return "podman" if path.name.startswith("podman") else "Docker"


def unreachable(path: Path, error: Exception) -> EngineError:
    """Why there is no talking to the daemon, and what to do about it."""
    name = _name(path)
    if isinstance(error, FileNotFoundError | ConnectionRefusedError) and name == "podman":
        return EngineError(
            "podman's service is not running on this machine",
            found=f"{path}: {'nobody listens' if isinstance(error, ConnectionRefusedError) else 'not there'}",
            next=("start it: sudo systemctl enable --now podman.socket", "or: --engine sandbox"),
        )
    if isinstance(error, PermissionError):
        return EngineError(
            f"{name} does not let this user in",
            found=f"{path}: permission denied",
            next=("join its group: sudo usermod -aG docker USER, then log in again", "or: --engine sandbox"),
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return EngineError(
            "Docker is not running on this machine",
            found=f"{path}: {'nobody listens' if isinstance(error, ConnectionRefusedError) else 'not there'}",
            next=("start it: sudo systemctl start docker", "or: --engine sandbox"),
        )
    return EngineError(
        f"{name} broke off", found=f"{path}: {error or type(error).__name__}", next="look into the daemon's log"
    )


def find_socket(host: Host) -> Path:
    """Where the daemon listens: `DOCKER_HOST`, the current context, the system's place, the user's own.

    Raises:
        EngineError: it is on another machine, which is no place to check an image of this one.
    """
    address = chosen_address(host)
    if address:
        kind, _, rest = address.partition("://")
        if kind != "unix":
            raise EngineError(
                f"cannot use Docker through {kind}://",
                found="only a daemon on this machine, through its Unix socket, runs checks",
                next=(
                    "unset DOCKER_HOST, or choose a local context: docker context use default",
                    "or: --engine sandbox",
                ),
            )
        return Path(rest)
    runtime = host.environment.get("XDG_RUNTIME_DIR", "")
    own = [Path(runtime) / "docker.sock"] if runtime.startswith("/") else []
    own += [host.home / ".docker/run/docker.sock", host.home / ".colima/default/docker.sock"]
    return next((path for path in (SYSTEM_SOCKET, *own) if path.exists()), SYSTEM_SOCKET)


def chosen_address(host: Host) -> str:
    """The daemon that somebody chose, by `DOCKER_HOST` or a context; "" when nobody did."""
    return host.environment.get("DOCKER_HOST") or _context_address(host)


def _context_address(host: Host) -> str:
    """The address of the context that `docker context use` chose; "" for the default one."""
    configured = host.environment.get("DOCKER_CONFIG", "")
    folder = Path(configured) if configured else host.home / ".docker"
    try:
        name = host.environment.get("DOCKER_CONTEXT") or json.loads((folder / "config.json").read_bytes()).get(
            "currentContext", ""
        )
        if not name or name == "default":
            return ""
        key = hashlib.sha256(name.encode()).hexdigest()
        meta = json.loads((folder / "contexts" / "meta" / key / "meta.json").read_bytes())
        return str(meta["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return ""
