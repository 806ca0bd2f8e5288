"""Who is compared: ours and the peers, each with how it is started, asked and understood.

Bodies and answers differ as the servers' own forms differ: V2 JSON (ours, MLServer) or nested rows. Every server
listens on loopback and runs from an environment of its own under the same interpreter.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.build.workshop import python
from benchmarks.serving import kitchen, tree
from intermodal_server import contract

PATIENCE_S = 90.0
ARTIFACTS = {"forest": "model.joblib", "mlp": "model.onnx"}


@dataclass(frozen=True)
class Contender:
    """One server at one set of settings."""

    name: str
    command: Callable[[str, int, Path], Sequence[str | Path]]  # kind of model, port, a folder of its own
    variables: Mapping[str, str] = field(default_factory=dict)
    path: str = "/predict"
    health: str = "/health"
    v2: bool = False
    read: Callable[[Any], Any] = lambda document: document["answer"]

    def body(self, kind: str, rows: Sequence[Sequence[float]]) -> bytes:
        """The request for some rows."""
        if not self.v2:
            return json.dumps({"rows": rows}).encode()
        flat = [value for row in rows for value in row]
        datatype = "FP64" if kind == "forest" else "FP32"
        tensor = {"name": "X", "datatype": datatype, "shape": [len(rows), len(rows[0])], "data": flat}
        return json.dumps({"inputs": [tensor]}).encode()


def _v2(document: Any) -> Any:
    output = document["outputs"][0]
    width = output["shape"][1] if len(output["shape"]) > 1 else 1
    data = output["data"]
    return [data[at : at + width] for at in range(0, len(data), width)] if width > 1 else data


def _peer(name: str) -> Path:
    return kitchen.environment(name, kitchen.PEERS / name / "requirements.txt")


def _fastapi(module: str, *more: str) -> Callable[[str, int, Path], Sequence[str | Path]]:
    return lambda kind, port, folder: [
        _peer("fastapi") / "uvicorn", f"{module}:app", "--app-dir", kitchen.PEERS / "fastapi", "--port", str(port),
        "--no-access-log", *more,
    ]  # fmt: skip


def _bentoml(module: str) -> Callable[[str, int, Path], Sequence[str | Path]]:
    return lambda kind, port, folder: [
        _peer("bentoml") / "bentoml", "serve", f"{module}:Bench", "--working-dir", kitchen.PEERS / "bentoml",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip


def _litserve(kind: str, port: int, folder: Path) -> Sequence[str | Path]:
    return [_peer("litserve") / "python", kitchen.PEERS / "litserve" / "service.py"]


def _mlserver(kind: str, port: int, folder: Path) -> Sequence[str | Path]:
    shutil.copy(kitchen.PEERS / "mlserver" / f"{kind}.json", folder / "model-settings.json")
    shutil.copy(kitchen.PEERS / "mlserver" / "runtime.py", folder)
    (folder / ARTIFACTS[kind]).symlink_to(kitchen.models() / kind / ARTIFACTS[kind])
    return [_peer("mlserver") / "mlserver", "start", folder]


def _ours(kind: str, port: int, folder: Path) -> Sequence[str | Path]:
    code = kitchen.FOLDER / "roots" / kind / contract.SERVER_CODE_DIR[1:]
    return [python(), "-I", "-S", code]


BARE = "FastAPI, unchecked"  # shown, but no peer: it does not look at what it is sent
_BATCH = {"MLSERVER_MODEL_MAX_BATCH_SIZE": "64", "MLSERVER_MODEL_MAX_BATCH_TIME": "0.005"}
_V2 = {"path": "/v2/models/bench/infer", "health": "/v2/health/live", "v2": True, "read": _v2}
_PLAIN: Callable[[Any], Any] = lambda document: document  # noqa: E731

CONTENDERS = {
    each.name: each
    for each in (
        Contender("ours", _ours, **_V2),  # type: ignore[arg-type]
        Contender("FastAPI", _fastapi("plain")),
        Contender("FastAPI, tuned", _fastapi("tuned")),
        Contender("FastAPI, tuned, 2 processes", _fastapi("tuned", "--workers", "2")),
        Contender(BARE, _fastapi("bare")),
        Contender("BentoML", _bentoml("plain"), health="/livez", read=_PLAIN),
        Contender("BentoML, batching", _bentoml("tuned"), health="/livez", read=_PLAIN),
        Contender("LitServe", _litserve),
        Contender("LitServe, batching", _litserve, {"BENCH_BATCH": "1"}),
        Contender("MLServer", _mlserver, **_V2),  # type: ignore[arg-type]
        Contender("MLServer, batching", _mlserver, _BATCH, **_V2),  # type: ignore[arg-type]
    )
}


@dataclass
class Running:
    """A server that has answered."""

    contender: Contender
    port: int
    process: subprocess.Popen[bytes]
    start_s: float  # from its start to its first right answer

    @property
    def url(self) -> str:
        """Where it predicts."""
        return f"http://127.0.0.1:{self.port}{self.contender.path}"

    def cpu_s(self) -> float:
        """CPU seconds of its tree so far."""
        return tree.cpu_s(self.process.pid)

    def memory(self) -> tree.Memory:
        """Of its tree, now."""
        return tree.memory(tree.pids(self.process.pid))


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
    """One request on a connection of its own: status, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(contender: Contender, kind: str, port: int, folder: Path) -> dict[str, str]:
    artifact = kitchen.models() / kind / ARTIFACTS.get(kind, "")
    given = {
        "BENCH_KIND": kind, "BENCH_MODEL": str(artifact), "BENCH_PORT": str(port), "PYTHONPATH": str(kitchen.PEERS),
        "BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True", "MLSERVER_DEBUG": "false",
        "MLSERVER_HOST": "127.0.0.1", "MLSERVER_HTTP_PORT": str(port), "MLSERVER_GRPC_PORT": str(free_port()),
        "MLSERVER_METRICS_PORT": str(free_port()), contract.ENV_ROOT: str(kitchen.FOLDER / "roots" / kind),
        contract.ENV_HOST: "127.0.0.1", contract.ENV_PORT: str(port),
        "INTERMODAL_METRICS_PORT": str(free_port()), **contender.variables,
    }  # fmt: skip
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **given}


@contextmanager
def running(
    contender: Contender, kind: str, body: bytes, variables: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """The server with a model, once it has answered `body`; ended with all that it has started."""
    folder = Path(tempfile.mkdtemp(prefix="bench-serving-"))
    port = free_port()
    command = [str(word) for word in contender.command(kind, port, folder)]
    environment = {**_environment(contender, kind, port, folder), **(variables or {})}
    with (folder / "log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        while not _answers(contender, port, body):
            late = time.perf_counter() - started > PATIENCE_S
            if process.poll() is not None or late:
                raise RuntimeError(f"{contender.name} does not start\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.005)
        yield Running(contender, port, process, time.perf_counter() - started)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(contender: Contender, port: int, body: bytes) -> bool:
    try:
        status, _, _ = ask(port, "POST", contender.path, body, **{"Content-Type": "application/json"})
    except (OSError, http.client.HTTPException):
        return False
    return status == 200


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server; what is left of its own session after ten seconds is killed."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def verify(server: Running, kind: str, rows: int, job: kitchen.Job) -> bytes:
    """The body of a request for so many rows, after its answer was compared with the right one.

    Raises:
        RuntimeError: another answer.
    """
    body = server.contender.body(kind, job.rows[:rows])
    headers = {"Content-Type": "application/json"}
    status, _, answer = ask(server.port, "POST", server.contender.path, body, **headers)
    if status != 200:
        raise RuntimeError(f"{server.contender.name} answers {status}: {answer[:300]!r}")
    found, right = server.contender.read(json.loads(answer)), job.answers[rows][kind]
    if kind == "mlp":
        same = len(found) == len(right) and all(
            len(a) == len(b) and all(abs(x - y) < 1e-5 for x, y in zip(a, b, strict=True))
            for a, b in zip(found, right, strict=True)
        )
    else:
        same = [value[0] if isinstance(value, list) else value for value in found] == right
    if not same:
        raise RuntimeError(f"{server.contender.name} answers {str(found)[:200]}; right is {str(right)[:200]}")
    return body
