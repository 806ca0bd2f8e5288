"""What the `OTEL_…` variables say.

Takes the environment, hands on `TraceSettings`, or None when traces go nowhere.

Rules, in order: no endpoint, `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none` mean no traces; a variable of
traces wins over the general one; a value that means nothing is one warning and counts as not given, as OpenTelemetry
wants it.

Spec: OpenTelemetry, "Environment Variable Specification"; "OpenTelemetry Protocol Exporter".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable, Optional
from urllib.parse import unquote, urlsplit

from intermodal_server.front.observe.trace.context import Sampler

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACES_PATH = "/v1/traces"
_SAMPLERS = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}

Warn = Callable[[str], None]


@dataclass(frozen=True)
class TraceSettings:
    """Where spans go, and which."""

    endpoint: str  # the whole URL
    headers: Mapping[str, str] = field(default_factory=dict)
    resource: Mapping[str, str] = field(default_factory=dict)
    sampler: Sampler = field(default_factory=Sampler)
    timeout_s: float = 10.0
    gzip: bool = False
    certificate: str = ""  # a file with the authorities to trust, "" for the system's
    delay_s: float = 5.0
    max_queue: int = 2048  # requests, of up to three spans each
    max_batch: int = 512


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether traces go anywhere; the only question that is asked of a server without them."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    return "otlp" in [name.strip() for name in exporters] and any(environment.get(name) for name in ENDPOINTS)


def read_settings(environment: Mapping[str, str], resource: Mapping[str, str], warn: Warn) -> Optional[TraceSettings]:
    """The settings; None when no spans can be sent.

    Args:
        environment: such as `os.environ`.
        resource: what is known of this server; `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` win.
        warn: is told of values that mean nothing.
    """
    if not wanted(environment):
        return None
    own = environment.get(ENDPOINTS[0], "")
    endpoint = own or environment[ENDPOINTS[1]].rstrip("/") + TRACES_PATH
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        warn(f"{ENDPOINTS[0] if own else ENDPOINTS[1]} is not an http or https address; no traces are sent")
        return None

    def exporter(name: str) -> str:
        return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(f"OTEL_EXPORTER_OTLP_{name}", "")

    if exporter("PROTOCOL") == "grpc":
        warn("OTEL_EXPORTER_OTLP_PROTOCOL is grpc; spans are sent by HTTP as JSON to the same address")
    attributes = {
        **resource,
        **_pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES", warn),
    }
    if environment.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = environment["OTEL_SERVICE_NAME"]
    defaults = TraceSettings("")
    batch = int(_number(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", defaults.max_batch, warn))
    queue = int(_number(environment, "OTEL_BSP_MAX_QUEUE_SIZE", defaults.max_queue, warn))
    timeout = {"OTEL_EXPORTER_OTLP_TIMEOUT": exporter("TIMEOUT")}
    return TraceSettings(
        endpoint,
        _pairs(exporter("HEADERS"), "OTEL_EXPORTER_OTLP_HEADERS", warn),
        attributes,
        _sampler(environment, warn),
        _number(timeout, "OTEL_EXPORTER_OTLP_TIMEOUT", defaults.timeout_s * 1000, warn) / 1000,
        exporter("COMPRESSION") == "gzip",
        exporter("CERTIFICATE"),
        _number(environment, "OTEL_BSP_SCHEDULE_DELAY", defaults.delay_s * 1000, warn) / 1000,
        queue,
        min(batch, queue),
    )


def _pairs(text: str, name: str, warn: Warn) -> dict[str, str]:
    """`key=value,…`, percent-encoded. A broken list is not used at all; its text may be a secret."""
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        key, value = unquote(key.strip()), unquote(value.strip())
        if not equals or not key or not (key + value).isprintable():
            warn(f"{name} is not a list of key=value; it is not used")
            return {}
        found[key] = value
    return found


def _number(environment: Mapping[str, str], name: str, default: float, warn: Warn) -> float:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value < 1e9:
        warn(f"{name} is not a number above 0; {default:g} is used")
        return default
    return value


def _sampler(environment: Mapping[str, str], warn: Warn) -> Sampler:
    name = environment.get("OTEL_TRACES_SAMPLER", "").lower() or "parentbased_always_on"
    if name not in _SAMPLERS:
        warn("OTEL_TRACES_SAMPLER is not known; parentbased_always_on is used")
        name = "parentbased_always_on"
    share, parent_decides = _SAMPLERS[name]
    if share is None:
        text = environment.get("OTEL_TRACES_SAMPLER_ARG", "")
        try:
            share = float(text) if text else 1.0
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            warn("OTEL_TRACES_SAMPLER_ARG is not a share from 0 to 1; 1 is used")
            share = 1.0
    return Sampler(share, parent_decides)
