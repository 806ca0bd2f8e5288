"""Serve an image in the foreground: what `intermodal run` does.

Takes an image and a port; hands back an exit status. SIGTERM and Ctrl-C let the server finish what it has, then all
is gone. Nothing is printed: what people should see goes to `events`, the server's own log lines among it.
"""

from __future__ import annotations

import signal
import time

from intermodal.engine.interface import Container, Engine, Hardening, RunRequest
from intermodal.errors import EngineError, InputError
from intermodal.events import Events
from intermodal.oci.digest import Digest
from intermodal.oci.image import Image
from intermodal_server.contract import ENV_API_KEYS, ENV_MODE, KEYS_MISSING, KEYS_UNREADABLE

_POLL_S = 0.1
_GRACE_S = 40.0  # longer than any sensible drain_s plus one request
_LAST_LINES = 15
_OVERLAP = 4096
_ASK_S = 1.0  # between two questions to an engine for what its container wrote


class _Stop(BaseException):
    """Somebody asked us to end; like `KeyboardInterrupt` it passes whatever turns errors into notes."""


def serve(
    image: Image | Digest,
    *,
    engine: Engine,
    port: int,
    events: Events,
    api_keys: str = "",
    grpc_port: int | None = None,
    mode: str = "",
) -> int:
    """The exit status of serving `image` on 127.0.0.1:`port` until interrupted: 0 after an orderly end.

    Must be called in the main thread, which is where signals arrive.

    Args:
        image: an image, or the digest of its manifest.
        engine: runs it.
        port: on loopback; 0 takes a free one, the notice names it.
        events: told the address once the server is ready.
        api_keys: whose keys the server takes, as INTERMODAL_API_KEYS says it; "": as the image says.
        grpc_port: the same for gRPC; None leaves it closed.
        mode: where the model runs, as an earlier check measured; "": as the image says.

    Raises:
        PortTakenError: somebody listens on `port` or `grpc_port`.
        InputError: gRPC is asked for, and the image does not serve it; or it wants API keys, and has none.
        EngineError: the container could not start, or ended by itself.
    """
    digest = image if isinstance(image, Digest) else image.manifests[0].digest
    given = {ENV_API_KEYS: api_keys, ENV_MODE: mode}
    environment = {name: value for name, value in given.items() if value}
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        wanted = RunRequest(digest, environment, port=port, grpc_port=grpc_port, events=events)
        with engine.start(wanted) as container:
            log = Log(container, events, every_s=0 if engine.name == "sandbox" else _ASK_S)
            try:
                _await_ready(container, events, log)
                while container.poll() is None:
                    log.pass_on()
                    time.sleep(_POLL_S)
            except _Stop:
                events.notice("finishing what is under way; once more ends it at once")
                try:
                    container.stop(_GRACE_S)
                except _Stop:
                    container.stop(0)
                log.pass_on(last=True)
                return 0
            raise _ended(container)
    except _Stop:  # before there was a container, or while it was being removed
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Log:
    """What a container writes, handed on line by line; engines keep only the end of it."""

    def __init__(self, container: Container, events: Events, *, every_s: float) -> None:
        self._container, self._events, self._every_s = container, events, every_s
        self._asked_s = time.monotonic()
        self._seen = ""

    def pass_on(self, *, last: bool = False) -> None:
        """Hand on every whole line that is new, unless it was asked less than `every_s` ago."""
        if not last and time.monotonic() - self._asked_s < self._every_s:
            return
        self._asked_s = time.monotonic()
        now = self._container.logs()
        now = now[: now.rfind("\n") + 1]
        new = unseen(self._seen, now)
        self._seen = now[: len(now) - len(new)]
        for line in new.split("\n")[:-1]:
            self._seen += f"{line}\n"  # first, because a signal may arrive in between
            self._events.output(line.rstrip("\r"))


def unseen(before: str, now: str) -> str:
    """What `now` has beyond `before`, when both are the ends of one growing text; all of it when they do not meet.

    >>> unseen("first second ", "second third ")
    'third '
    """
    if now.startswith(before):
        return now[len(before) :]
    tail = before[-_OVERLAP:]
    while tail and tail not in now:  # what scrolled out of `now` cannot be found in it
        tail = tail.partition("\n")[2]
    return now.rpartition(tail)[2] if tail else now


def _stop(*_: object) -> None:
    """Leave whatever waits."""
    raise _Stop


def _await_ready(container: Container, events: Events, log: Log) -> None:
    """Wait until the server answers that it is ready, then tell the address."""
    from http.client import HTTPException

    from intermodal.engine.http import get

    started_s = time.monotonic()
    with events.task("start the server"):
        while True:
            log.pass_on()
            if container.poll() is not None:
                raise _ended(container)
            try:
                status, body = get(container.endpoint, "/v2/health/ready")
            except (OSError, HTTPException):
                status, body = 0, b""
            if status == 200:
                break
            for problem in (KEYS_UNREADABLE, KEYS_MISSING):
                if problem.encode() in body:
                    raise _keyless(problem)
            time.sleep(_POLL_S)
    events.notice(
        f"serving on http://{container.endpoint.host}:{container.endpoint.port}, ready after "
        f"{time.monotonic() - started_s:.1f} s; {_in_words(container.hardening)}; Ctrl-C ends it"
    )
    if container.endpoint.grpc_port:
        events.notice(f"gRPC on {container.endpoint.host}:{container.endpoint.grpc_port}")
    if container.endpoint.metrics is not None:
        events.notice(f"metrics: curl --unix-socket {container.endpoint.metrics} http://localhost/metrics")


def _in_words(hardening: Hardening) -> str:
    """Isolation, and what is missing from it."""
    missing = [name for name, present in hardening.measures.items() if not present]
    return f"isolation {hardening.isolation}" + (f" (without {', '.join(missing)})" if missing else "")


def _keyless(problem: str) -> InputError:
    """The error for an image that wants keys when nobody gives it any: it would wait for ever."""
    return InputError(
        "this image asks everybody for an API key, and knows none",
        found=f"[serve] api_keys is set; the server says: {problem}",
        next=("pass a file of keys: --api-keys FILE", "intermodal apikey NAME makes a line of it"),
    )


def _ended(container: Container) -> EngineError:
    """The error that tells why the server is gone."""
    return EngineError(
        "the server ended by itself",
        found=(f"exit status {container.poll()}", *container.logs().strip().splitlines()[-_LAST_LINES:]),
        next="intermodal check IMAGE tells more",
    )
