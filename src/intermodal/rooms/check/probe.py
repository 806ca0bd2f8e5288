"""The client side of a check: is the server ready, and what does it answer?

Takes an endpoint, hands on readiness and V2 bodies. What comes back is not believed: it is bounded, parsed strictly,
and whatever is no answer becomes `{"error": text}`, which counts as a difference.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from intermodal.engine.http import connection, get
from intermodal.engine.interface import Container, Endpoint
from intermodal.events import Task
from intermodal_server.contract import MODES

_POLL_S = 0.02
_MAX_ANSWER_BYTES = 256 << 20
_START_S = 60.0
_BYTES_PER_S = 20 << 20  # of the image, on a slow disk
_LAST_LINES = 12
_DEATH_S = 2.0


class Readiness(Struct, frozen=True):
    """How a start went; `problem` is empty when the server became ready."""

    seconds: float
    problem: tuple[str, ...] = ()


def start_limit_s(image_bytes: int, cores: int) -> float:
    """How long to wait for readiness: longer for large images, and longer while others use the machine too."""
    crowd = max(1.0, os.getloadavg()[0] / max(1, cores))
    return (_START_S + image_bytes / _BYTES_PER_S) * min(crowd, 8.0)


def await_ready(container: Container, limit_s: float, task: Task) -> Readiness:
    """Wait until the server says that it is ready, fails, or ends.

    Args:
        container: just started.
        limit_s: when to give up.
        task: shows what the server says meanwhile.
    """
    started_s = time.monotonic()
    said = ""
    while True:
        passed_s = time.monotonic() - started_s
        status, reason = _readiness(container.endpoint)
        if status == 200:
            return Readiness(passed_s)
        if reason and reason != said:
            said = reason
            task.label(f"start the server ({reason})")
        if container.poll() is not None:
            return Readiness(passed_s, _died(container, said))
        if reason.startswith("failed"):
            return Readiness(passed_s, (f"the server refuses to serve: {reason}", *_last_lines(container)))
        if passed_s > limit_s:
            what = f"the server was not ready after {limit_s:.0f} s" + (f": {said}" if said else "")
            return Readiness(passed_s, (what, *_last_lines(container)))
        time.sleep(_POLL_S)


def execution_mode(container: Container, model: str) -> str:
    """inline, thread or workers, as the server has decided; "" when it does not say."""
    try:
        status, body = get(container.endpoint, f"/v2/models/{quote(model, safe='')}/config")
        mode = json.loads(body)["parameters"]["mode"]["string_value"] if status == 200 else ""
    except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return mode if mode in MODES else ""


def _readiness(endpoint: Endpoint) -> tuple[int, str]:
    """Status of the readiness probe and the reason it gives; 0 when nobody answers."""
    try:
        status, body = get(endpoint, "/v2/health/ready")
        return status, str(json.loads(body).get("reason", ""))[:500]
    except (OSError, HTTPException):
        return 0, ""
    except (ValueError, AttributeError, RecursionError):
        return status, ""


def _died(container: Container, said: str) -> tuple[str, ...]:
    """Why a container is gone."""
    what = f"the server ended with status {container.poll()} before it was ready"
    return (what + (f": {said}" if said else ""), *_last_lines(container))


def death(container: Container, *, expected: bool) -> tuple[str, ...]:
    """Why a container that was asked is gone, empty while it lives.

    Args:
        container: was ready.
        expected: it did not answer, so its end is waited for a moment.
    """
    deadline_s = time.monotonic() + (_DEATH_S if expected else 0.0)
    while container.poll() is None:
        if time.monotonic() >= deadline_s:
            return ()
        time.sleep(_POLL_S)
    return (f"the server ended with status {container.poll()} while it was asked", *_last_lines(container))


def _last_lines(container: Container) -> tuple[str, ...]:
    """The end of the log."""
    return tuple(f"log: {line[:500]}" for line in container.logs().strip().splitlines()[-_LAST_LINES:])


class Client:
    """Asks one model, over one kept connection; `close` must be called."""

    def __init__(self, endpoint: Endpoint, model: str, timeout_s: float) -> None:
        self._connect(connection(endpoint, timeout_s), model)

    @classmethod
    def over(
        cls, connected: HTTPConnection, model: str, *, prefix: str = "", headers: Mapping[str, str] | None = None
    ) -> Client:
        """One that asks over a connection of the caller's, below a path and with headers of the caller's."""
        client = cls.__new__(cls)
        client._connect(connected, model, prefix, headers or {})
        return client

    def _connect(
        self, connected: HTTPConnection, model: str, prefix: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self._path = f"{prefix}/v2/models/{quote(model, safe='')}/infer"
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._connection = connected
        self.broken = False  # at least one request got no answer at all
        self.status = 0  # of the last answer

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The V2 body that answers `request`, or `{"error": text}`."""
        body = json.dumps(request, ensure_ascii=False, allow_nan=False).encode()
        try:
            self._connection.request("POST", self._path, body, self._headers)
            answer = self._connection.getresponse()
            self.status = answer.status
            data = answer.read(_MAX_ANSWER_BYTES + 1)
        except (OSError, HTTPException) as error:
            self._connection.close()
            self.broken = True
            return {"error": f"no answer: {error or type(error).__name__}"}
        if len(data) > _MAX_ANSWER_BYTES:
            self._connection.close()
            return {"error": f"the answer has more than {_MAX_ANSWER_BYTES} bytes"}
        try:
            document = json.loads(data, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return {"error": f"status {answer.status}, and the answer is not JSON: {error}"}
        if answer.status != 200:
            text = document.get("error") if isinstance(document, dict) else None
            return {"error": f"{text or 'no reason given'} (status {answer.status})"}
        return _checked(document)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _refuse(name: str) -> float:
    """JSON knows no NaN and no infinities."""
    raise ValueError(f"{name} is no JSON")


def _checked(document: Any) -> dict[str, Any]:
    """The document when it has the form of a V2 answer, else an error."""
    if not isinstance(document, dict) or not isinstance(document.get("outputs"), list):
        return {"error": "the answer has no outputs"}
    for output in document["outputs"]:
        if not isinstance(output, dict) or not isinstance(output.get("shape"), list) or "data" not in output:
            return {"error": "an output of the answer is no tensor"}
        if not all(type(length) is int and length >= 0 for length in output["shape"]):
            return {"error": f"an output of the answer has shape {output['shape']!r}"}
    return document
