"""A collector of traces on loopback: takes OTLP over HTTP, keeps every body, answers as it is told."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 30.0


@dataclass
class Collector:
    """What has come."""

    port: int = 0
    answers: list[int] = field(default_factory=list)  # statuses of the next requests; then 200
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of requests answered 200
    heads: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # path, headers; of every request

    @property
    def spans(self) -> list[dict[str, Any]]:
        """Every span, in order of arrival."""
        return [
            span
            for body in list(self.bodies)
            for resource in body["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def wait(self, spans: int) -> list[dict[str, Any]]:
        """The spans, once there are so many."""
        end_s = time.monotonic() + PATIENCE_S
        while len(self.spans) < spans:
            assert time.monotonic() < end_s, f"{len(self.spans)} spans came, {spans} were expected"
            time.sleep(0.02)
        return self.spans


@contextmanager
def collect(*answers: int) -> Iterator[Collector]:
    """A collector that answers with `answers`, then with 200."""
    found = Collector(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            found.heads.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            status = found.answers.pop(0) if found.answers else 200
            if status == 200:
                plain = gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data
                found.bodies.append(json.loads(plain))
            self.send_response(status)
            if status == 503:
                self.send_header("retry-after", "0")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
