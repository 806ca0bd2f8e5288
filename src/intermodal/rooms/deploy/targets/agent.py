"""A helper inside the gateway's container: it replaces configuration files and asks what only that container reaches.

Takes an engine's API and a container, hands on files in place and answers of Envoy's administration and of replicas'
metrics. The same over any connection to the engine, so a machine behind ssh needs nothing installed.

Rules, in order:
1. It runs as the container's own user and may do no more than that; nothing listens on a port.
2. A file is written beside its place and renamed; Envoy never sees a part.
3. One agent serves all questions of one process, one after the other; when it ends, the next question starts another.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from contextlib import suppress
from typing import Any

from intermodal.engine.api import DockerApi, hijack
from intermodal.errors import EngineError

INTERPRETER = "/usr/bin/python3"
TIMEOUT_S = 15.0
_MAX_ANSWER = 64 << 20

# Runs with the gateway's Python; every request and every answer is one line of JSON.
SCRIPT = """
import base64, http.client, json, os, socket, sys

class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("envoy", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

def get(place, path):
    connection = Unix(place) if isinstance(place, str) else http.client.HTTPConnection(*place, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return {"status": answer.status, "body": base64.b64encode(answer.read(64 << 20)).decode()}
    finally:
        connection.close()

def put(path, content):
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(base64.b64decode(content))
    os.rename(temporary, path)
    return {}

def remove(path):
    if os.path.exists(path):
        os.unlink(path)
    return {}

for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {"get": get, "put": put, "remove": remove}[asked.pop("do")](**asked)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""


class Agent:
    """The helper in one container; started when first asked something."""

    def __init__(self, api: DockerApi, container: str) -> None:
        self._api = api
        self.container = container
        self._socket: socket.socket | None = None
        self._read = bytearray()  # lines of output, frames taken away
        self._raw = bytearray()
        self._lock = threading.Lock()

    def get(self, place: str | tuple[str, int], path: str) -> tuple[int, bytes]:
        """Status and body of an answer over HTTP: `place` is a Unix socket, or an address and port.

        Raises:
            ConnectionError: nobody answers there, or the container is gone.
        """
        answer = self._ask({"do": "get", "place": place, "path": path})
        return int(answer["status"]), base64.b64decode(answer["body"])

    def put(self, path: str, content: bytes) -> None:
        """Replace a file in one step.

        Raises:
            ConnectionError: it cannot be written, or the container is gone.
        """
        self._ask({"do": "put", "path": path, "content": base64.b64encode(content).decode()})

    def remove(self, path: str) -> None:
        """Remove a file; it may be gone already."""
        self._ask({"do": "remove", "path": path})

    def close(self) -> None:
        """End it; safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps(question).encode() + b"\n"
        with self._lock:
            fresh = self._socket is None
            try:
                answer = self._exchange(line)
            except (OSError, ValueError, EngineError) as error:
                self.close()
                if fresh:
                    raise ConnectionError(f"the gateway's container does not answer: {error}") from error
                try:  # the one of before has ended, perhaps with the container that it was in
                    answer = self._exchange(line)
                except (OSError, ValueError, EngineError) as again:
                    self.close()
                    raise ConnectionError(f"the gateway's container does not answer: {again}") from again
        if "error" in answer:
            raise ConnectionError(str(answer["error"]))
        return answer

    def _exchange(self, line: bytes) -> dict[str, Any]:
        if self._socket is None:
            self._raw.clear()
            self._read.clear()
            self._socket = hijack(self._api, self.container, [INTERPRETER, "-I", "-S", "-u", "-c", SCRIPT], TIMEOUT_S)
        self._socket.sendall(line)
        while b"\n" not in self._read:
            self._receive(self._socket)
        text, _, rest = bytes(self._read).partition(b"\n")
        self._read[:] = rest
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("not an answer of the agent")
        return found

    def _receive(self, connection: socket.socket) -> None:
        """Take more output, and the engine's frames off it; what goes to standard error is nobody's answer."""
        piece = connection.recv(1 << 18)
        if not piece:
            raise ConnectionResetError("it ended")
        self._raw += piece
        while len(self._raw) >= 8:
            length = int.from_bytes(self._raw[4:8], "big")
            if length > _MAX_ANSWER * 2:
                raise ValueError("a frame of impossible length")
            if len(self._raw) < 8 + length:
                return
            if self._raw[0] == 1:
                self._read += self._raw[8 : 8 + length]
            del self._raw[: 8 + length]

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()
