"""Serve an image in the foreground: what `intermodal run` does.

Takes an image and a port; hands back an exit status. SIGTERM and Ctrl-C let the server finish what it has, then all
is gone. Nothing is printed: what people should see goes to `events`.
"""

from __future__ import annotations

import signal
import time

from intermodal.engine.interface import Container, Engine, Hardening, RunRequest
from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.oci.digest import Digest
from intermodal.oci.image import Image

_POLL_S = 0.1
_GRACE_S = 40.0  # longer than any sensible drain_s plus one request
_LAST_LINES = 15


class _Stop(Exception):
    """Somebody asked us to end."""


def serve(image: Image | Digest, *, engine: Engine, port: int, events: Events) -> int:
    """The exit status of serving `image` on 127.0.0.1:`port` until interrupted: 0 after an orderly end.

    Must be called in the main thread, which is where signals arrive.

    Args:
        image: an image, or the digest of its manifest.
        engine: runs it.
        port: on loopback; 0 takes a free one, the notice names it.
        events: told the address once the server is ready.

    Raises:
        PortTakenError: somebody listens on `port`.
        EngineError: the container could not start, or ended by itself.
    """
    digest = image if isinstance(image, Digest) else image.manifests[0].digest
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with engine.start(RunRequest(digest, port=port, events=events)) as container:
            try:
                _await_ready(container, events)
                while container.poll() is None:
                    time.sleep(_POLL_S)
            except _Stop:
                events.notice("finishing what is under way; once more ends it at once")
                try:
                    container.stop(_GRACE_S)
                except _Stop:
                    container.stop(0)
                return 0
            raise _ended(container)
    except _Stop:  # before there was a container, or while it was being removed
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(*_: object) -> None:
    """Leave whatever waits."""
    raise _Stop


def _await_ready(container: Container, events: Events) -> None:
    """Wait until the server answers that it is ready, then tell the address."""
    from http.client import HTTPException

    from intermodal.engine.http import get

    started_s = time.monotonic()
    with events.task("start the server"):
        while True:
            if container.poll() is not None:
                raise _ended(container)
            try:
                status, _ = get(container.endpoint, "/v2/health/ready")
            except (OSError, HTTPException):
                status = 0
            if status == 200:
                break
            time.sleep(_POLL_S)
    events.notice(
        f"serving on http://{container.endpoint.host}:{container.endpoint.port}, ready after "
        f"{time.monotonic() - started_s:.1f} s; {_in_words(container.hardening)}; Ctrl-C ends it"
    )


def _in_words(hardening: Hardening) -> str:
    """Isolation, and what is missing from it."""
    missing = [name for name, present in hardening.measures.items() if not present]
    return f"isolation {hardening.isolation}" + (f" (without {', '.join(missing)})" if missing else "")


def _ended(container: Container) -> EngineError:
    """The error that tells why the server is gone."""
    return EngineError(
        "the server ended by itself",
        found=(f"exit status {container.poll()}", *container.logs().strip().splitlines()[-_LAST_LINES:]),
        next="intermodal check IMAGE tells more",
    )
