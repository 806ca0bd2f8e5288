"""The schema of `intermodal.toml`, one struct per table; every key of the contract exists from the first day.

`load.py` reads files into these values and fills defaults, `faults.py` words the errors; nothing here does I/O. Keys
whose room is not built yet are named in `not_built.py`: refused when they would change the image, else one notice.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

_CLASS = 'module:Class, such as "predictor:Digits"'
DnsLabel = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="a DNS label: a-z, 0-9 and hyphens inside, at most 63",
    ),
]
Tag = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$",
        description='a tag such as "1.0.0": letters, digits, . _ -, at most 128',
    ),
]
ClassPath = Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description=_CLASS)]
PythonVersion = Annotated[str, Meta(pattern=r"^3\.\d{1,2}$", description='a version such as "3.11", as a string')]
# datetime.date or an aware datetime.datetime; msgspec has no union of the two, so `faults.py` checks it
Moment = Annotated[
    Any,
    Meta(description="a date without quotes such as 2026-11-01, or a time with its zone: 2026-11-01T12:00:00Z"),
]
SecretReference = Annotated[
    str, Meta(pattern=r"^(file|env|kubernetes):.+$", description="file:PATH, env:NAME or kubernetes:NAME/KEY")
]
KeyFile = Annotated[
    str, Meta(pattern=r"^file:/.+$", description='file:/PATH in the container, such as "file:/run/secrets/keys"')
]
PositiveInt = Annotated[int, Meta(ge=1)]
Duration = Annotated[
    str, Meta(pattern=r"^\d{1,6}(\.\d{1,3})?(s|m|h|d)$", description='a time such as "90s", "30m", "1h" or "2d"')
]
Port = Annotated[int, Meta(ge=1, le=65535)]
Percent = Annotated[int, Meta(ge=0, le=100)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every table: immutable, no unknown keys."""


class Model(Table, frozen=True):
    """`[model]` or one of `[[models]]`."""

    name: DnsLabel | None = None  # default: the folder's or file's name, sanitised
    version: Tag = "latest"
    artifact: str | None = None
    predictor: ClassPath | None = None
    app: ClassPath | None = None
    include: tuple[str, ...] = ()
    golden: str | None = None  # default: golden.json beside the project file, when it exists
    trust: tuple[str, ...] = ()


class Prune(Table, frozen=True):
    """`prune = { keep = […] }`."""

    keep: tuple[str, ...] = ()


class Environment(Table, frozen=True):
    """`[environment]`."""

    python: PythonVersion | None = None
    requirements: tuple[str, ...] | str = ()
    system: tuple[str, ...] = ()
    base: str = "deb:bookworm"
    accelerator: Literal["cpu", "cuda"] = "cpu"
    platforms: tuple[Literal["linux/amd64", "linux/arm64"], ...] = ()  # default: this host's architecture
    prune: bool | Prune = True
    bytecode: Literal["all", "none"] = "all"
    compression: Literal["gzip", "zstd"] = "gzip"
    exclude_newer: Moment = None


class Serve(Table, frozen=True):
    """`[serve]`."""

    mode: Literal["auto", "inline", "thread", "workers"] = "auto"
    workers: PositiveInt = 1
    processes: PositiveInt | Literal["auto"] = "auto"
    max_batch_rows: PositiveInt = 256
    timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    max_request_bytes: PositiveInt = 64 << 20
    start_check: Literal["fail", "warn", "off"] = "fail"
    drain_s: Annotated[float, Meta(ge=0)] = 5.0
    grpc: bool = False
    api_keys: KeyFile | None = None
    rate_per_s: Annotated[float, Meta(ge=0)] = 0.0
    rate_burst: Annotated[int, Meta(ge=0)] = 0
    max_concurrent: Annotated[int, Meta(ge=0)] = 0


class Check(Table, frozen=True):
    """`[check]`: tolerances; None takes the default of the datatype."""

    rtol: Annotated[float, Meta(ge=0)] | None = None
    atol: Annotated[float, Meta(ge=0)] | None = None


class Ignore(Table, frozen=True):
    """One entry of `[scan] ignore`."""

    id: str
    until: datetime.date
    reason: str


class Scan(Table, frozen=True):
    """`[scan]`."""

    fail_on: Literal["low", "medium", "high", "critical"] = "high"
    unknown_severity: Literal["fail", "ignore"] = "fail"
    ignore: tuple[Ignore, ...] = ()


class Push(Table, frozen=True):
    """`[push]`."""

    to: str | None = None


class Sign(Table, frozen=True):
    """`[sign]`."""

    key: str | None = None
    encrypt: str | None = None


class Step(Table, frozen=True):
    """One step of `[deploy] steps`."""

    weight: Percent | None = None
    min_requests: PositiveInt | None = None
    max_time: Duration | None = None
    pause: bool = False


class Analysis(Table, frozen=True):
    """`[deploy.analysis]`."""

    errors_ratio: float = 1.5
    slow_ratio: float = 1.5
    class_ratio: float = 1.5
    wrong_ratio: float = 1.5  # of answers that `intermodal feedback` proves wrong
    disagreement: Annotated[float, Meta(gt=0, lt=1, description="a share between 0 and 1")] = 0.05  # of copied requests
    class_shift: Literal["hold", "rollback"] = "hold"
    max_error_rate: float | None = None
    max_p99_s: float | None = None


class Resources(Table, frozen=True):
    """`[deploy.resources]`."""

    cpu: str | None = None
    memory: str | None = None
    gpu: int = 0


class Autoscale(Table, frozen=True):
    """`[deploy.autoscale]`."""

    min: PositiveInt = 1
    max: PositiveInt = 1


class Notify(Table, frozen=True):
    """`[deploy.notify]`."""

    webhook: str | None = None  # gets a POST with JSON for each change of a rollout
    command: str | None = None  # gets the same JSON on standard input


class Deploy(Table, frozen=True):
    """`[deploy]`."""

    target: str | None = None
    context: str | None = None
    namespace: str | None = None
    gateway: str | None = None
    host: str | None = None
    path: str = "/"
    port: Port = 8080
    address: str = "127.0.0.1"  # where the gateway listens; "0.0.0.0" is everywhere
    certificate: str | None = None  # PEM files of the gateway, renewed without a restart
    key: str | None = None
    sticky: str | None = None  # a header whose value keeps a user on one revision
    strategy: Literal["auto", "canary", "blue-green", "shadow", "rolling"] = "auto"
    replicas: PositiveInt = 1
    steps: tuple[Step, ...] = ()
    bake: Duration = "30m"
    ring: Annotated[int, Meta(ge=0, le=100_000)] = 1000  # last predictions that a server keeps by request id; 0: none
    golden_key: SecretReference | None = None  # the API key that golden cases are asked with
    max_hold: Duration | None = None  # what is held for a shift is rolled back after so long; else it waits
    analysis: Analysis = Analysis()
    resources: Resources = Resources()
    autoscale: Autoscale | None = None
    notify: Notify = Notify()


class Secret(Table, frozen=True):
    """One entry of `[secrets]`: a reference, never a value."""

    from_: SecretReference = msgspec.field(name="from")


class PipelineStep(Table, frozen=True):
    """One of `[[pipeline.steps]]`."""

    name: str
    model: str | None = None
    function: str | None = None
    inputs: dict[str, str] = {}
    timeout_s: float | None = None
    retries: int = 0


class Pipeline(Table, frozen=True):
    """`[pipeline]`."""

    steps: tuple[PipelineStep, ...] = ()


class ProjectFile(Table, frozen=True):
    """A whole `intermodal.toml`, or `[tool.intermodal]` of a `pyproject.toml`."""

    model: Model | None = None
    models: tuple[Model, ...] = ()
    environment: Environment = Environment()
    serve: Serve = Serve()
    check: Check = Check()
    scan: Scan = Scan()
    push: Push = Push()
    sign: Sign = Sign()
    deploy: Deploy = Deploy()
    secrets: dict[str, Secret] = {}
    pipeline: Pipeline | None = None


Document = dict[str, Any]
