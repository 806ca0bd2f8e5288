"""Spans on their way to a collector: a bounded queue and a thread that sends what is in it.

Takes finished requests from the event loop, hands on OTLP requests. Requests to the model never wait for it: a full
queue drops, and counts what it dropped.

Rules, in order:
1. Sent when `max_batch` wait, or after `delay_s`. Bodies hold at most `SPANS_AT_ONCE` requests, so that making one
   holds the interpreter for less than a millisecond.
2. 429, 502, 503, 504 and broken connections are tried again, after `Retry-After` or a growing pause, `TRIES` times in
   all; any other answer than 2xx drops the batch.
3. Failures are one warning a minute. Neither headers nor the endpoint's credentials enter it.
4. At the end what waits is sent once, within `LAST_S`.

Spec: OpenTelemetry, "OTLP Specification", OTLP/HTTP response and retries.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import random
import ssl
import threading
import time
from collections import deque
from typing import Optional
from urllib.parse import unquote, urlsplit

from intermodal_server import __version__
from intermodal_server.front.observe.trace.otlp import Finished, body
from intermodal_server.front.observe.trace.settings import TraceSettings
from intermodal_server.log import Log

SPANS_AT_ONCE = 32
TRIES = 5
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
LAST_S = 2.0
WARN_EVERY_S = 60.0
MAX_REPLY_BYTES = 64 << 10
RETRIABLE = frozenset((429, 502, 503, 504))


class Exporter:
    """The queue and its thread; the thread begins with the first span."""

    def __init__(self, settings: TraceSettings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._queue: deque[Finished] = deque()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._connection: Optional[http.client.HTTPConnection] = None
        self._warned_s = -WARN_EVERY_S
        self.sent = 0  # requests
        self.dropped = 0

    def add(self, finished: Finished) -> None:
        """Take a request, or drop it when too many wait. Called in the event loop alone."""
        waiting = len(self._queue)
        if waiting >= self._settings.max_queue:
            self.dropped += 1
            return
        self._queue.append(finished)
        if waiting + 1 >= self._settings.max_batch and not self._wake.is_set():
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send what waits, for at most `LAST_S`; blocks."""
        self._ending.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(LAST_S)

    # --- the thread ---------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait(self._settings.delay_s)
            self._wake.clear()
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        left = len(self._queue)
        while left > 0:
            batch = [self._queue.popleft() for _ in range(min(left, SPANS_AT_ONCE))]
            left -= len(batch)
            if self._delivered(body(batch, self._settings.resource, __version__), len(batch)):
                self.sent += len(batch)
            else:
                self.dropped += len(batch)

    def _delivered(self, data: bytes, requests: int) -> bool:
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, TRIES + 1):
            again_s: Optional[float]
            try:
                status, again_s, text = self._post(data)
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                status, again_s, text = 0, None, b""
                why = f"{type(error).__name__}: {error}"
            else:
                if 200 <= status < 300:
                    self._look_for_rejected(text, requests)
                    return True
                why = f"the collector answers {status}"
                if status not in RETRIABLE:
                    self._warn(why)
                    return False
            self._warn(why)
            if attempt == TRIES or self._ending.is_set():
                return False
            wait_s = again_s if again_s is not None else pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load
            self._ending.wait(min(wait_s, MAX_PAUSE_S))
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
        return False

    def _post(self, data: bytes) -> tuple[int, Optional[float], bytes]:
        """Status, `Retry-After` in seconds, and the answer's begin."""
        parts = urlsplit(self._settings.endpoint)
        headers = {"content-type": "application/json", "user-agent": f"intermodal/{__version__}"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        headers.update(self._settings.headers)
        if self._settings.gzip:
            headers["content-encoding"] = "gzip"
            data = gzip.compress(data, 1)
        connection = self._connection = self._connection or self._connect()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body=data, headers=headers)
        answer = connection.getresponse()
        text = answer.read(MAX_REPLY_BYTES)
        if not answer.isclosed():
            self._hang_up()
        after = answer.getheader("retry-after", "")
        return answer.status, float(after) if after.isdigit() else None, text

    def _connect(self) -> http.client.HTTPConnection:
        parts, timeout_s = urlsplit(self._settings.endpoint), self._settings.timeout_s
        host = str(parts.hostname)
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
        context = ssl.create_default_context(cafile=self._settings.certificate or None)
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _look_for_rejected(self, text: bytes, requests: int) -> None:
        if b"partialSuccess" not in text:
            return
        try:
            partial = json.loads(text).get("partialSuccess") or {}
            rejected = int(partial.get("rejectedSpans", 0))
        except (ValueError, AttributeError, TypeError):
            return
        if rejected:
            self._warn(f"the collector refused {rejected} spans of {requests} requests")

    def _warn(self, why: str) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            self._log.warning("traces cannot be sent", reason=why, dropped=self.dropped)
