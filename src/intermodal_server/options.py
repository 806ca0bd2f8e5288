"""What the environment variables say, read once at the start of each process and checked.

Takes a mapping such as `os.environ`, hands on frozen `Options`. Variables win over `model.json`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable, TypeVar

from intermodal_server import contract

Number = TypeVar("Number", int, float)
_LAID_OVER = (  # the variables that win over the same setting of `model.json`
    "start_check", "mode", "workers", "processes", "max_batch_rows", "timeout_s", "drain_s", "max_request_bytes",
    "api_keys", "rate_per_s", "rate_burst", "max_concurrent",
)  # fmt: skip


class OptionError(ValueError):
    """A variable holds a value that means nothing; the message names both."""


@dataclass(frozen=True)
class ObserveOptions:
    """What is measured, kept and told beside the answers; see docs/reference/metrics.md."""

    port: int = 0  # 0: none
    socket: str = ""
    triton: bool = False
    ring: int = 0  # predictions
    ring_inputs: bool = False
    access_log: str = "errors"  # off | errors | all
    otel: tuple[tuple[str, str], ...] = ()  # the OTEL_… variables


@dataclass(frozen=True)
class VertexRoutes:
    """The paths that Vertex AI asks for; "" when it does not."""

    health: str = ""
    predict: str = ""


@dataclass(frozen=True)
class Options:
    """The settings of one start; None leaves the value of `model.json`."""

    root: str = ""
    host: str = "0.0.0.0"  # noqa: S104 - a container is reached from outside it
    port: int = contract.HTTP_PORT
    socket: str = ""
    grpc_port: int | None = None  # None: the default of an image that has gRPC
    grpc_socket: str = ""
    python: tuple[str, ...] = ()
    worker_python: str = ""
    front_site: str = ""
    hang_s: float = 10.0
    memory_bytes: int | None = None
    linger_s: float = 2.0
    slow_body_s: float = 10.0
    start_check: str | None = None
    mode: str | None = None
    workers: int | None = None
    processes: int | None = None  # 0: as many as cores and memory allow
    max_batch_rows: int | None = None
    timeout_s: float | None = None
    drain_s: float | None = None
    max_request_bytes: int | None = None
    api_keys: str | None = None  # "" turns them off
    open_paths: tuple[str, ...] = ("health",)
    rate_per_s: float | None = None
    rate_burst: int | None = None
    max_concurrent: int | None = None
    max_connections: int = 4096
    observe: ObserveOptions = ObserveOptions()
    vertex: VertexRoutes = VertexRoutes()

    def path(self, path: str) -> str:
        """Where a path of the contract really lies."""
        return self.root + path

    def grpc_addresses(self, settings: contract.ModelSettings) -> list[tuple[str, int]]:
        """Where gRPC is served: (host, port), or (path of a Unix socket, 0).

        Raises:
            OptionError: a variable asks for gRPC, and the image has none.
        """
        if not settings.serve.grpc:
            if self.grpc_port or self.grpc_socket:
                name = contract.ENV_GRPC_PORT if self.grpc_port else contract.ENV_GRPC_SOCKET
                raise OptionError(f"{name} is set, but this image has no gRPC; build it with [serve] grpc = true")
            return []
        port = self.grpc_port if self.grpc_port is not None else contract.GRPC_PORT if self.port else 0
        by_port = [(self.host, port)] if port else []
        return by_port + ([(self.grpc_socket, 0)] if self.grpc_socket else [])

    def settings(self) -> contract.ModelSettings:
        """`model.json` with the variables laid over its `serve` table.

        Raises:
            ContractError: not model settings.
            OSError: it cannot be read.
        """
        with open(self.path(contract.SETTINGS_PATH), "rb") as file:
            settings = contract.ModelSettings.from_json(file.read())
        keys = settings.serve.api_keys
        serve = replace(settings.serve, api_keys=f"file:{self.path(keys[5:])}" if keys.startswith("file:") else keys)
        given = {name: getattr(self, name) for name in _LAID_OVER if getattr(self, name) is not None}
        return replace(settings, serve=replace(serve, **given))


def _number(
    environment: Mapping[str, str], name: str, kind: Callable[[str], Number], least: Number, default: Any = None
) -> Any:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        value = kind(text)
    except ValueError:
        raise OptionError(f"{name} is {text!r}; a number is expected") from None
    if not least <= value < 1 << 62:
        raise OptionError(f"{name} is {text}; at least {least} is expected")
    return value


def _processes(environment: Mapping[str, str]) -> int | None:
    if environment.get(contract.ENV_PROCESSES) == "auto":
        return 0
    return _number(environment, contract.ENV_PROCESSES, int, 1)  # type: ignore[no-any-return]


def _interpreter(environment: Mapping[str, str]) -> tuple[str, ...]:
    text = environment.get(contract.ENV_PYTHON, "")
    if not text:
        return ()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        raise OptionError(f"{contract.ENV_PYTHON} is {text!r}; a JSON list of strings is expected")
    return tuple(value)


def _flag(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "")
    if text not in ("", "0", "1"):
        raise OptionError(f"{name} is {text!r}; 0 or 1 is expected")
    return text == "1"


def _observe(environment: Mapping[str, str], http_port: int) -> ObserveOptions:
    """Metrics have a port by default only where the server has one: else two servers of one host would meet on it."""
    default = contract.METRICS_PORT if http_port not in (0, contract.METRICS_PORT) else 0
    access_log = environment.get(contract.ENV_ACCESS_LOG) or ObserveOptions.access_log
    if access_log not in ("off", "errors", "all"):
        raise OptionError(f"{contract.ENV_ACCESS_LOG} is {access_log!r}; off, errors or all is expected")
    port = _number(environment, contract.ENV_METRICS_PORT, int, 0, default)
    if port > 65535:
        raise OptionError(f"{contract.ENV_METRICS_PORT} is {port}; at most 65535 is expected")
    if port and port == http_port:
        raise OptionError(f"{contract.ENV_METRICS_PORT} and {contract.ENV_PORT} are both {port}; two ports are needed")
    return ObserveOptions(
        port=port,
        socket=environment.get(contract.ENV_METRICS_SOCKET, ""),
        triton=_flag(environment, contract.ENV_TRITON_METRICS),
        ring=_number(environment, contract.ENV_RING, int, 0, 0),
        ring_inputs=_flag(environment, contract.ENV_RING_INPUTS),
        access_log=access_log,
        otel=tuple(item for item in environment.items() if item[0].startswith("OTEL_")),
    )


def _api_keys(environment: Mapping[str, str]) -> str | None:
    text = environment.get(contract.ENV_API_KEYS, "")
    if text == "off":
        return ""
    if text and not text.startswith(("file:/", "keys:")):
        what = "file:/path, keys:name:sha256,… or off"
        raise OptionError(f"{contract.ENV_API_KEYS} is of an unknown form (not shown); {what} is expected")
    return text or None


def _open_paths(environment: Mapping[str, str], vertex: VertexRoutes) -> tuple[str, ...]:
    text = environment.get(contract.ENV_OPEN_PATHS) or ",".join(Options.open_paths)
    listed = () if text == "none" else tuple(part.strip() for part in text.split(",") if part.strip())
    for entry in listed:
        if entry != "health" and not entry.startswith("/"):
            raise OptionError(
                f"{contract.ENV_OPEN_PATHS} holds {entry!r}; health, none or a path such as /ping is expected"
            )
    return (*listed, vertex.health) if vertex.health and "health" in listed else listed


def _vertex(environment: Mapping[str, str]) -> VertexRoutes:
    paths = []
    for name in (contract.ENV_VERTEX_HEALTH, contract.ENV_VERTEX_PREDICT):
        path = environment.get(name, "")
        if path and not path.startswith("/"):
            raise OptionError(f"{name} is {path!r}; a path such as /predict is expected")
        paths.append(path)
    return VertexRoutes(*paths)


def read_options(environment: Mapping[str, str]) -> Options:
    """The options that `environment` holds.

    Raises:
        OptionError: a value is not of its kind.
    """
    start_check = environment.get(contract.ENV_START_CHECK) or None
    if start_check not in (None, "fail", "warn", "off"):
        raise OptionError(f"{contract.ENV_START_CHECK} is {start_check!r}; fail, warn or off is expected")
    mode = environment.get(contract.ENV_MODE) or None
    if mode is not None and mode not in contract.MODES:
        raise OptionError(f"{contract.ENV_MODE} is {mode!r}; auto, inline, thread or workers is expected")
    vertex_port = _number(environment, contract.ENV_VERTEX_PORT, int, 1, contract.HTTP_PORT)
    port = _number(environment, contract.ENV_PORT, int, 0, vertex_port)
    vertex = _vertex(environment)
    grpc_port = _number(environment, contract.ENV_GRPC_PORT, int, 0)
    for name, number in ((contract.ENV_PORT, port), (contract.ENV_GRPC_PORT, grpc_port or 0)):
        if number > 65535:
            raise OptionError(f"{name} is {number}; at most 65535 is expected")
    socket = environment.get(contract.ENV_SOCKET, "")
    if not port and not socket:
        raise OptionError(f"{contract.ENV_PORT} is 0 and {contract.ENV_SOCKET} is empty; nothing to listen on")
    return Options(
        root=environment.get(contract.ENV_ROOT, "").rstrip("/"),
        host=environment.get(contract.ENV_HOST) or Options.host,
        port=port,
        socket=socket,
        grpc_port=grpc_port,
        grpc_socket=environment.get(contract.ENV_GRPC_SOCKET, ""),
        python=_interpreter(environment),
        worker_python=environment.get(contract.ENV_WORKER_PYTHON, ""),
        front_site=environment.get(contract.ENV_FRONT_SITE, ""),
        memory_bytes=_number(environment, contract.ENV_MEMORY_BYTES, int, 1 << 20),
        hang_s=_number(environment, contract.ENV_HANG_S, float, 0.1, Options.hang_s),
        linger_s=_number(environment, contract.ENV_LINGER_S, float, 0.0, Options.linger_s),
        slow_body_s=_number(environment, contract.ENV_SLOW_BODY_S, float, 0.1, Options.slow_body_s),
        start_check=start_check,
        mode=mode,
        workers=_number(environment, contract.ENV_WORKERS, int, 1),
        processes=_processes(environment),
        max_batch_rows=_number(environment, contract.ENV_MAX_BATCH_ROWS, int, 1),
        timeout_s=_number(environment, contract.ENV_TIMEOUT_S, float, 0.001),
        drain_s=_number(environment, contract.ENV_DRAIN_S, float, 0.0),
        max_request_bytes=_number(environment, contract.ENV_MAX_REQUEST_BYTES, int, 1),
        api_keys=_api_keys(environment),
        open_paths=_open_paths(environment, vertex),
        rate_per_s=_number(environment, contract.ENV_RATE_PER_S, float, 0.0),
        rate_burst=_number(environment, contract.ENV_RATE_BURST, int, 0),
        max_concurrent=_number(environment, contract.ENV_MAX_CONCURRENT, int, 0),
        max_connections=_number(environment, contract.ENV_MAX_CONNECTIONS, int, 1, Options.max_connections),
        observe=_observe(environment, port),
        vertex=vertex,
    )


def front_site(options: Options) -> str:
    """The folder of the front's packages, "" when what is importable anyway has to do."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = options.path(f"{contract.SERVER_DIR}/lib/{version}/site-packages")
    if options.front_site:
        return options.front_site
    return folder if os.path.isdir(folder) else ""
