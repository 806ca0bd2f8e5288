"""A real server from source for tests: supervisor, front and worker as processes, on a Unix socket and, if asked, TCP.

`write_root` lays out what an image holds; `serve` starts it and waits until it is ready or gone.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from intermodal_server.contract import GOLDEN_PATH, MODEL_DIR, SETTINGS_PATH, ModelFile, ModelSettings
from support.envs import CACHE, CHECKOUT, training_python

CODE_DIR = CHECKOUT / "src" / "intermodal_server"
FRONT_SITE = Path(msgspec.__file__).parents[1]
PATIENCE_S = 60.0

ECHO = """
import os, time
class Model:
    def predict(self, x):
        first = x[0]
        if first == 666: os._exit(9)
        if first == 555: time.sleep(600)
        if first == 444: raise ValueError("secret text in /app/echo.py")
        return {"y": [value * 2 for value in x]}
"""


def models_python() -> Path:
    """The interpreter that the models of these tests were trained with and run in."""
    return training_python("scikit-learn==1.9.1", "pandas", "onnxruntime", "skops")


def trained(name: str) -> Path:
    """A root folder that `train_models.py` made; trained once and kept in the cache."""
    script = Path(__file__).with_name("train_models.py")
    key = hashlib.sha256(script.read_bytes()).hexdigest()[:16]
    folder = CACHE / "server-models" / key
    if not (folder / "done").exists():
        scratch = Path(tempfile.mkdtemp(dir=_made(folder.parent)))
        subprocess.run(
            [str(models_python()), str(script), str(scratch)], check=True, env={"PYTHONPATH": str(CODE_DIR.parent)}
        )
        (scratch / "done").touch()
        try:
            scratch.rename(folder)
        except OSError:  # another test process was faster
            shutil.rmtree(scratch)
    return folder / name


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def copy_root(source: Path, target: Path) -> Path:
    """A root that a test may change."""
    return Path(shutil.copytree(source, target))


def write_root(
    root: Path,
    settings: ModelSettings,
    *,
    app: Mapping[str, str] | None = None,
    model: Mapping[str, bytes] | None = None,
    golden: Mapping[str, Any] | None = None,
) -> Path:
    """The files of an image below `root`; the hashes of `model` are put into the settings."""
    for name, text in (app or {}).items():
        (_made(root / "app") / name).write_text(text)
    files = []
    for name, data in (model or {}).items():
        path = root / MODEL_DIR[1:] / name
        _made(path.parent)
        path.write_bytes(data)
        files.append(ModelFile(name, len(data), hashlib.sha256(data).hexdigest()))
    path = root / SETTINGS_PATH[1:]
    _made(path.parent)
    path.write_bytes(replace(settings, files=tuple(files)).to_json())
    if golden is not None:
        (root / GOLDEN_PATH[1:]).write_text(json.dumps(golden))
    return root


def echo_settings(**changes: Any) -> ModelSettings:
    """A predictor without numpy that doubles FP64 numbers; 666 kills it, 555 hangs it, 444 raises."""
    from intermodal_server.contract import Signature, TensorSpec

    signature = Signature((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))
    settings = ModelSettings("echo", "1", "predictor", "predictor", "", signature, call="named", predictor="echo:Model")
    return replace(settings, **changes)


def echo_root(root: Path, **changes: Any) -> Path:
    """The echo model's root."""
    return write_root(root, echo_settings(**changes), app={"echo.py": ECHO})


def infer_body(values: list[Any], **more: Any) -> dict[str, Any]:
    """A V2 body for the echo model."""
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(values)], "data": values}], **more}


@dataclass
class Reply:
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[bytes]
    socket: Path
    port: int
    log_path: Path
    environment: dict[str, str] = field(default_factory=dict)
    metrics_socket: Path = Path()

    def connection(self, timeout: float = PATIENCE_S) -> http.client.HTTPConnection:
        """A connection of its own over the Unix socket; the caller closes it."""
        return _UnixConnection(self.socket, timeout)

    def raw(self) -> socket.socket:
        """A bare socket connected to the server; the caller closes it."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE_S)
        connection.connect(str(self.socket))
        return connection

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request on a new connection; `body` is sent as it is, or as JSON."""
        connection = self.connection()
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            with suppress(BrokenPipeError):  # a refusal may come, and the connection end, before the body has left
                connection.request(method, path, body=data, headers=dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def watched(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """A page of the metrics port, over its Unix socket."""
        connection = _UnixConnection(self.metrics_socket, PATIENCE_S)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def infer(self, values: list[Any], model: str = "echo") -> Reply:
        """Ask the echo model."""
        return self.request("POST", f"/v2/models/{model}/infer", infer_body(values))

    def log(self) -> list[dict[str, Any]]:
        """Every JSON line it has written."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def children(self, part: str) -> list[int]:
        """Process ids of `front` or `worker`, oldest first; alive ones only."""
        found = []
        for line in self.log():
            if line["message"].startswith(part) and line["message"].endswith(" starts"):
                status = Path(f"/proc/{line['pid']}/stat")
                if status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(line["pid"])
        return found

    def ready(self) -> Reply | None:
        """The readiness probe's answer; None when nobody answers."""
        try:
            return self.request("GET", "/v2/health/ready")
        except (OSError, http.client.HTTPException):
            return None

    def wait(self, condition: Any, what: str = "") -> None:
        """Return once `condition()` is true."""
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s, f"waited for {what}\n{self.log_path.read_text()}"
            time.sleep(0.02)

    def wait_ready(self) -> None:
        """Return once it is ready; fail when it ends instead."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log_path.read_text()
            reply = self.ready()
            return reply is not None and reply.status == 200

        self.wait(is_ready, "readiness")

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextmanager
def serve(
    root: Path,
    *,
    worker: Path | None = None,
    code: Path = CODE_DIR,
    tcp: bool = False,
    wait: bool = True,
    exact: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    **variables: Any,
) -> Iterator[Served]:
    """The server over `root`.

    Args:
        root: what an image holds, as `write_root` lays it out.
        worker: the model's interpreter; default this one.
        code: the server's folder.
        tcp: listen on a free port of loopback too.
        wait: return only when it is ready.
        exact: variables by their whole names.
        arguments: of the command line; none in an image.
        variables: settings of the environment without their INTERMODAL_ prefix, in lower case.
    """
    folder = Path(tempfile.mkdtemp(prefix="im-"))
    port = 0
    if tcp:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    given = {
        "root": root,
        "host": "127.0.0.1",
        "port": port,
        "socket": folder / "s",
        "worker_python": worker or sys.executable,
        "front_site": FRONT_SITE,
        "drain_s": 0,
        "metrics_port": 0,
        "metrics_socket": folder / "m",
        **variables,
    }
    environment = {f"INTERMODAL_{name.upper()}": str(value) for name, value in given.items()}
    environment |= {"PATH": os.environ["PATH"], **(exact or {})}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(code), *arguments],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    served = Served(process, folder / "s", port, folder / "log", environment, folder / "m")
    try:
        if wait:
            served.wait_ready()
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        shutil.rmtree(folder, ignore_errors=True)
