"""A mirror and package index on loopback that can lose the network: for good, for a moment, or in mid-download."""

from __future__ import annotations

import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

# what can happen to a request; "for good" also to all after it
TROUBLES = ("cut", "cut for good", "reset", "reset for good", "503", "503 for good", "short", "garbage for good")


class Site:
    """A folder, served; `trouble` at request number `at` since `begin`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self._guard = threading.Lock()
        self.begin("", 0)

    def begin(self, trouble: str, at: int) -> None:
        """Count requests from here; `at` is the one that meets the trouble, from 1; 0 none."""
        with self._guard:
            self.trouble, self.at, self.count, self.struck = trouble, at, 0, False

    def next(self) -> str:
        """The trouble of the next request, or ""."""
        with self._guard:
            self.count += 1
            for_good = self.trouble.endswith(" for good")
            hit = bool(self.at) and (self.count == self.at or (for_good and self.count > self.at))
            self.struck = self.struck or hit
            return self.trouble.removesuffix(" for good") if hit else ""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        trouble = self.site.next()
        target = self.site.root / unquote(urlsplit(self.path).path).lstrip("/")
        if target.is_dir():
            target /= "index.html"
        data = target.read_bytes() if target.is_file() else b"not here"
        status, start = (200 if target.is_file() else 404), 0
        wanted = self.headers.get("Range", "")
        if status == 200 and wanted.startswith("bytes=") and wanted[6:7].isdigit():
            start = int(wanted[6:].partition("-")[0])
            status = 206 if start < len(data) else 416
        if trouble == "reset":
            self._reset()
            return
        if trouble == "503":
            status, data, start = 503, b"busy", 0
        if trouble == "garbage":
            data = bytes(byte ^ 0x55 for byte in data)
        body = data[start:]
        self.send_response(status)
        sent = body[: len(body) // 2] if trouble in ("cut", "short") else body
        self.send_header("Content-Type", "text/html" if target.suffix == ".html" else "application/octet-stream")
        self.send_header("Content-Length", str(len(sent if trouble == "short" else body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        if trouble == "cut":
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        """End the connection as a network does that goes away."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that are killed break connections; that is what they are here for."""


@contextmanager
def serving(root: Path) -> Iterator[Site]:
    """Serve `root` on a free port of 127.0.0.1 for the length of a `with` block."""
    site = Site(root)
    server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
