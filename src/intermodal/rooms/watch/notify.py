"""Telling others what a rollout does: a webhook, a command, or nobody.

Takes what happened as a document, hands on nothing: a message that cannot be delivered is a warning, never a reason to
do anything else. Each is sent by a thread of its own, with a time-out, in order.
"""

from __future__ import annotations

import json
import queue
import shlex
import subprocess
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any

from intermodal.events import Events
from intermodal.host import Host

_TIMEOUT_S = 10.0
_ATTEMPTS = 3
_WAITING = 100


class Notifier:
    """Sends to `webhook` (POST, JSON) and to `command` (JSON on standard input); `close` waits for what is under way.

    Args:
        webhook: http or https; "" for none.
        command: as for a shell, but none is used; "" for none.
        host: environment of the command.
        events: where failures are told.
    """

    def __init__(self, webhook: str, command: str, *, host: Host, events: Events) -> None:
        self._webhook, self._command, self._host, self._events = webhook, command, host, events
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def tell(self, document: Mapping[str, Any]) -> None:
        """Send a document soon."""
        if not self._webhook and not self._command:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(document)
        except queue.Full:
            self._events.warning("notifications are not taken: one was left out")

    def close(self) -> None:
        """Wait until everything was sent or given up."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(_ATTEMPTS * _TIMEOUT_S * 2)
            self._thread = None

    def _run(self) -> None:
        while (document := self._waiting.get()) is not None:
            data = json.dumps(document, ensure_ascii=False).encode()
            for name, send in (("webhook", self._post), ("command", self._call)):
                try:
                    send(data)
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    self._events.warning(f"the notification's {name} failed: {type(error).__name__}")

    def _post(self, data: bytes) -> None:
        if not self._webhook:
            return
        if not self._webhook.startswith(("http://", "https://")):
            raise ValueError("not http")
        for attempt in range(_ATTEMPTS):
            request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
                self._webhook, data, {"Content-Type": "application/json", "User-Agent": "intermodal"}
            )
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
                    return
            except OSError:
                if attempt + 1 == _ATTEMPTS:
                    raise

    def _call(self, data: bytes) -> None:
        if self._command:
            subprocess.run(
                shlex.split(self._command), input=data, check=True, timeout=_TIMEOUT_S, capture_output=True,
                env=dict(self._host.environment),
            )  # fmt: skip
