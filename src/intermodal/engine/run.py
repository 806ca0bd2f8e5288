"""Serve an image in the foreground: what `intermodal run` does.

Takes an image and a port; hands back an exit status. SIGTERM and Ctrl-C let the server finish what it has, then all
is gone. Nothing is printed; the address, and later what the container said, go to `events`.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

from intermodal.engine.interface import Container, Engine, RunRequest
from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.image import Image

_POLL_S = 0.2
_GRACE_S = 40.0  # longer than any sensible drain_s plus one request
_LAST_LINES = 15


class _Stop(Exception):
    """Somebody asked us to end."""


def serve(image: Image | Digest, *, engine: Engine, port: int, host: Host, events: Events, store: object = None) -> int:
    """The exit status of serving `image` on 127.0.0.1:`port` until interrupted: 0 after an orderly end.

    Args:
        image: an image, or the digest of its manifest.
        engine: runs it.
        port: on loopback; 0 takes a free one, the notice names it.
        host: this machine.
        events: told the address, and the log in pieces.
        store: accepted so that all rooms are called alike; the engine has its own.

    Raises:
        PortTakenError: somebody listens on `port`.
        EngineError: the container could not start, or ended by itself.
    """
    digest = image if isinstance(image, Digest) else image.manifests[0].digest
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with engine.start(RunRequest(digest, port=port, events=events)) as container:
            events.notice(f"serving on http://{container.endpoint.host}:{container.endpoint.port} (Ctrl-C ends it)")
            hardening = container.hardening
            if hardening.isolation != "none":
                missing = [name for name, present in hardening.measures.items() if not present]
                events.notice(
                    f"isolation {hardening.isolation}" + (f", without {', '.join(missing)}" if missing else "")
                )
            return _until_stopped(container)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave the wait below."""
    raise _Stop


def _until_stopped(container: Container) -> int:
    """Wait for Ctrl-C, SIGTERM, or the container's own end."""
    try:
        while (status := container.poll()) is None:
            time.sleep(_POLL_S)
    except (_Stop, KeyboardInterrupt):
        container.stop(_GRACE_S)
        return 0
    raise EngineError(
        "the server ended by itself",
        found=(f"exit status {status}", *container.logs().strip().splitlines()[-_LAST_LINES:]),
        next="intermodal check tells more",
    )
