"""What builder and server agree on: paths, variables and labels in the image, the signature, the settings file.

Takes nothing; `intermodal` writes these values into an image, `intermodal_server` reads them back. Standard library
only. Everything read from JSON is checked here, so both sides can trust what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# --- where things lie in the image ---------------------------------------------------------------------------------
VENV_DIR = "/opt/venv"  # the model's environment, venv-shaped
SERVER_DIR = "/opt/intermodal"  # the front's environment, venv-shaped
SERVER_CODE_DIR = "/opt/intermodal/intermodal_server"  # this package; run as a folder: `python -I -S DIR ROLE`
MODEL_DIR = "/model"
APP_DIR = "/app"
METADATA_DIR = "/etc/intermodal"
SETTINGS_PATH = "/etc/intermodal/model.json"
GOLDEN_PATH = "/etc/intermodal/golden.json"
USER_ID = 65532
HTTP_PORT = 8080
METRICS_PORT = 9090
GRPC_PORT = 8081

# --- environment variables that the server reads once, at start -----------------------------------------------------
ENV_HOST = "INTERMODAL_HOST"  # address to listen on; default 0.0.0.0
ENV_PORT = "INTERMODAL_PORT"  # TCP port; "0" listens on no TCP port (only with a socket)
ENV_SOCKET = "INTERMODAL_SOCKET"  # path of a Unix socket to listen on, besides or instead of TCP
ENV_GRPC_PORT = "INTERMODAL_GRPC_PORT"  # of an image with gRPC; default 8081, or "0" (none) where ENV_PORT is "0"
ENV_GRPC_SOCKET = "INTERMODAL_GRPC_SOCKET"  # path of a Unix socket for gRPC, besides or instead of the port
ENV_START_CHECK = "INTERMODAL_START_CHECK"  # fail | warn | off
ENV_MODE = "INTERMODAL_MODE"  # auto | inline | thread | workers
ENV_WORKERS = "INTERMODAL_WORKERS"
ENV_PROCESSES = "INTERMODAL_PROCESSES"  # auto, or how many answer requests where the mode is inline
ENV_MAX_BATCH_ROWS = "INTERMODAL_MAX_BATCH_ROWS"  # 1 turns batching off
ENV_TIMEOUT_S = "INTERMODAL_TIMEOUT_S"
ENV_DRAIN_S = "INTERMODAL_DRAIN_S"
ENV_MAX_REQUEST_BYTES = "INTERMODAL_MAX_REQUEST_BYTES"
ENV_API_KEYS = "INTERMODAL_API_KEYS"  # file:/path of lines name:sha256 | keys:name:sha256,… | off
# why a server that wants keys lets nobody in, as its readiness says it
KEYS_UNREADABLE, KEYS_MISSING = "the API keys cannot be read", "there are no API keys"
ENV_OPEN_PATHS = "INTERMODAL_OPEN_PATHS"  # paths that need no key, after commas; "health" (default): the probes
ENV_RATE_PER_S = "INTERMODAL_RATE_PER_S"  # requests a second of each caller; 0: no limit
ENV_RATE_BURST = "INTERMODAL_RATE_BURST"  # how many of them at once; 0: those of one second
ENV_MAX_CONCURRENT = "INTERMODAL_MAX_CONCURRENT"  # requests of each caller at a time; 0: no limit
ENV_MAX_CONNECTIONS = "INTERMODAL_MAX_CONNECTIONS"  # open at a time; default 4096, less where descriptors are short
ENV_ROOT = "INTERMODAL_ROOT"  # prefix before every path above; for the engine without isolation, and tests
ENV_PYTHON = "INTERMODAL_PYTHON"  # JSON list: how to start an interpreter, when it needs an explicit loader
ENV_WORKER_PYTHON = "INTERMODAL_WORKER_PYTHON"  # the model's interpreter, when there is no VENV_DIR; to run from source
ENV_FRONT_SITE = "INTERMODAL_FRONT_SITE"  # site-packages with the front's packages; to run from source
ENV_MEMORY_BYTES = "INTERMODAL_MEMORY_BYTES"  # what all processes may use together; default the container's limit
ENV_HANG_S = "INTERMODAL_HANG_S"  # a front silent for so long is replaced; default 10
ENV_LINGER_S = "INTERMODAL_LINGER_S"  # how long a failed start still answers on the probe before it exits; default 2
ENV_SLOW_BODY_S = "INTERMODAL_SLOW_BODY_S"  # grace for headers and for bodies slower than 16 KiB/s; default 10
ENV_METRICS_PORT = "INTERMODAL_METRICS_PORT"  # default 9090, or "0" (none) where ENV_PORT is "0"
ENV_METRICS_SOCKET = "INTERMODAL_METRICS_SOCKET"  # path of a Unix socket for metrics, besides or instead of the port
ENV_TRITON_METRICS = "INTERMODAL_TRITON_METRICS"  # "1": the nv_inference_… names too
ENV_RING = "INTERMODAL_RING"  # so many of the last predictions are kept for /predictions; default 0
ENV_RING_INPUTS = "INTERMODAL_RING_INPUTS"  # "1": with their inputs
ENV_ACCESS_LOG = "INTERMODAL_ACCESS_LOG"  # off | errors | all; default errors
ENV_VERTEX_PORT = "AIP_HTTP_PORT"  # Vertex AI's names: the TCP port, when ENV_PORT does not say
ENV_VERTEX_HEALTH = "AIP_HEALTH_ROUTE"  # a path that answers whether the server is ready
ENV_VERTEX_PREDICT = "AIP_PREDICT_ROUTE"  # a path that takes {"instances": […]}

# --- labels of the image config -------------------------------------------------------------------------------------
LABEL_PREFIX = "dev.intermodal."
LABEL_SIGNATURE = "dev.intermodal.signature"
LABEL_OPENAPI = "dev.intermodal.openapi"
LABEL_LOCK_DIGEST = "dev.intermodal.lock.digest"
LABEL_GOLDEN_DIGEST = "dev.intermodal.golden.digest"
LABEL_GOLDEN_RECORDED_IN = "dev.intermodal.golden.recorded-in"
LABEL_FORMAT = "dev.intermodal.format"
LABEL_FRAMEWORK = "dev.intermodal.framework"

# --- datatypes of the Open Inference Protocol: name -> bytes per element (0: length-prefixed) ------------------------
DATATYPES: Mapping[str, int] = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8,
    "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "FP32": 4, "FP64": 8, "BYTES": 0,
}  # fmt: skip
INTEGER_DATATYPES = frozenset(name for name in DATATYPES if "INT" in name)
FLOAT_DATATYPES = frozenset(("FP16", "FP32", "FP64"))

MODES = ("auto", "inline", "thread", "workers")
SETTINGS_FORMAT = 1


class ContractError(ValueError):
    """A document of this contract is missing a field or holds a value outside its range."""


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output; -1 in `shape` stands for any length, the first axis is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    assumed: bool = False  # the type is a guess: nothing in the artifact or a golden request says it

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            raise ContractError(f"tensor {self.name!r} has unknown datatype {self.datatype!r}")
        if not self.name or any(not isinstance(n, int) or n < -1 for n in self.shape):
            raise ContractError(f"tensor {self.name!r} has shape {list(self.shape)!r}; -1 or a length is expected")

    def as_json(self) -> dict[str, Any]:
        """The form of V2 model metadata, plus `assumed` where the type is a guess."""
        document: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        if self.assumed:
            document["assumed"] = True
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TensorSpec:
        """The tensor that `as_json` wrote.

        Raises:
            ContractError: a field is missing or of the wrong kind.
        """
        try:
            return cls(
                str(document["name"]),
                str(document["datatype"]),
                tuple(document["shape"]),
                bool(document.get("assumed", False)),
            )
        except (KeyError, TypeError) as error:
            raise ContractError(f"not a tensor description: {error}") from error


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model. An empty tuple of outputs means: known only after the first answer."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def as_json(self) -> dict[str, Any]:
        """`{"inputs": […], "outputs": […]}` as in V2 model metadata."""
        return {"inputs": [t.as_json() for t in self.inputs], "outputs": [t.as_json() for t in self.outputs]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        """The signature that `as_json` wrote.

        Raises:
            ContractError: a field is missing or of the wrong kind.
        """
        try:
            return cls(
                tuple(TensorSpec.from_json(t) for t in document["inputs"]),
                tuple(TensorSpec.from_json(t) for t in document["outputs"]),
            )
        except (KeyError, TypeError) as error:
            raise ContractError(f"not a signature: {error}") from error


@dataclass(frozen=True)
class ModelFile:
    """One file below `MODEL_DIR`; the worker refuses to load when its bytes are others."""

    path: str  # relative, forward slashes
    size_bytes: int
    sha256: str  # hex


@dataclass(frozen=True)
class ServeSettings:
    """How the server runs; the `[serve]` table of the project file."""

    mode: str = "auto"  # auto | inline | thread | workers
    workers: int = 1
    processes: int = 0  # that answer requests in mode inline; 0: as many as cores and memory allow
    max_batch_rows: int = 256
    timeout_s: float = 30.0
    max_request_bytes: int = 64 << 20
    start_check: str = "fail"  # fail | warn | off
    drain_s: float = 5.0
    grpc: bool = False  # the image holds what gRPC needs, and serves it
    api_keys: str = ""  # file:/path or keys:name:sha256,…; "": everybody may ask
    rate_per_s: float = 0.0  # of each caller, or of all when there are no keys; 0: no limit
    rate_burst: int = 0  # 0: as many as come in one second
    max_concurrent: int = 0  # of each caller at a time; 0: no limit

    def __post_init__(self) -> None:
        if self.api_keys and not self.api_keys.startswith(("file:/", "keys:")):
            raise ContractError("api_keys must be file:/path or keys:name:sha256,…")  # the value may be a secret


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from its golden value; None means the default of its datatype."""

    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True)
class ModelSettings:
    """`/etc/intermodal/model.json`: everything the server knows about the model before it loads it.

    `call` says how tensors reach the model: "array" (one input, a 2-D array), "columns" (one input per column of a
    DataFrame), "named" (keyword arguments or the runtime's own names).
    """

    name: str
    version: str
    backend: str  # sklearn | onnx | predictor
    loader: str  # joblib | pickle | cloudpickle | skops | onnx | predictor
    artifact: str  # file or folder below MODEL_DIR, "" when a predictor needs none
    signature: Signature
    call: str = "array"
    predictor: str = ""  # "module:Class"
    trust: tuple[str, ...] = ()
    files: tuple[ModelFile, ...] = ()
    serve: ServeSettings = field(default_factory=ServeSettings)
    tolerance: Tolerance = field(default_factory=Tolerance)
    python: str = ""  # "3.11", of the image
    collision: tuple[str, ...] = ()  # distributions that model and front need in different versions: workers only

    def to_json(self) -> bytes:
        """The file's bytes: sorted keys, no spaces, so that equal settings are equal bytes."""
        document = asdict(self)
        document["signature"] = self.signature.as_json()
        document["format"] = SETTINGS_FORMAT
        if not self.serve.grpc:
            del document["serve"]["grpc"]
        if not self.serve.processes:
            del document["serve"]["processes"]
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ModelSettings:
        """The settings that `to_json` wrote.

        Raises:
            ContractError: another format number, a missing field, a value of the wrong kind.
        """
        try:
            document = dict(json.loads(data))
            if document.pop("format", None) != SETTINGS_FORMAT:
                raise ContractError("model.json has another format number than this server")
            document["signature"] = Signature.from_json(document["signature"])
            document["trust"] = tuple(document["trust"])
            document["collision"] = tuple(document.get("collision", ()))
            document["files"] = tuple(ModelFile(**f) for f in document["files"])
            document["serve"] = ServeSettings(**document["serve"])
            document["tolerance"] = Tolerance(**document["tolerance"])
            return cls(**document)
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"not model settings: {error}") from error
