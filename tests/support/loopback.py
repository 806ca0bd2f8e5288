"""A web server on loopback that serves a folder, and can be made to misbehave."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves GET with ranges; what it was asked for is noted in its `Site`."""

    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.seen.append((path, dict(self.headers)))
        special = self.site.special.get(path)
        if special is not None:
            special(self)
            return
        if self.site.login and self.headers.get("Authorization") != "Basic " + _encoded(self.site.login):
            self.answer(401, b"who are you", {"WWW-Authenticate": 'Basic realm="x"'})
            return
        target = self.site.root / path.lstrip("/")
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            self.answer(404, b"not here")
            return
        data = target.read_bytes()
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start = int(wanted[6:].partition("-")[0])
            if start >= len(data):
                self.answer(416, b"")
                return
            self.answer(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
            return
        kind = "text/html" if target.suffix == ".html" else "application/octet-stream"
        self.answer(200, data, {"Content-Type": kind})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _encoded(login: tuple[str, str]) -> str:
    return base64.b64encode(":".join(login).encode()).decode()


@dataclass
class Site:
    """A running server: its address, what it serves, and what it was asked."""

    root: Path
    url: str = ""
    login: tuple[str, str] | None = None
    special: dict[str, Callable[[Handler], None]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Every path asked for, in order."""
        return [path for path, _ in self.seen]


@contextmanager
def serving(root: Path, login: tuple[str, str] | None = None) -> Iterator[Site]:
    """Serve `root` on a free port of 127.0.0.1 for the length of a `with` block."""
    site = Site(root, login=login)
    handler = type("Bound", (Handler,), {"site": site})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
