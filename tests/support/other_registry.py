"""A registry in memory on loopback, with the habits of ECR, Docker Hub and others, and with faults on purpose.

The real client talks to it over real sockets. `Habits` says what it supports; `fault`, asked once a request, says how
this one goes wrong. Everything that it was asked, with its headers, is in `seen`; what could be read by strangers is in
`state`. A second server beside it, `elsewhere`, plays the host that redirects lead to.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import socket
import ssl
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
PIECE = 16 << 10


@dataclass
class Habits:
    """What this registry supports, asks for and forbids."""

    token: bool = False  # bearer tokens, from this host or `realm`
    realm: str = ""  # another token server's address
    basic: bool = False
    login: tuple[str, str] = ("me", "secret-of-the-registry")
    token_life_s: int = 300
    token_uses: int = 0  # a token is good for so many requests; 0 is for ever
    identity_token: str = ""  # accepted by POST instead of the login
    anonymous_pull: bool = False
    mount: bool = True
    referrers: bool = True
    create_on_push: bool = True
    immutable_tags: bool = False
    redirect_blobs: str = ""  # address of another host that has them
    most_body_bytes: int = 0  # 413 above
    chunk_min_bytes: int = 0
    absolute_location: bool = True
    resumable: bool = True  # remembers what came of a broken upload
    ranges: bool = True
    page: int = 100  # tags in one page
    headers: dict[str, str] = field(default_factory=dict)  # added to every answer


@dataclass
class State:
    """What it holds."""

    blobs: dict[str, bytes] = field(default_factory=dict)  # by digest
    members: dict[str, set[str]] = field(default_factory=dict)  # repository: digests of blobs
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)


Fault = Callable[["Handler"], str]


@dataclass
class Registry:
    """A running registry."""

    habits: Habits = field(default_factory=Habits)
    state: State = field(default_factory=State)
    address: str = ""
    fault: Fault | None = None
    special: dict[tuple[str, str], Callable[[Handler], None]] = field(default_factory=dict)  # by method and path
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tokens: dict[str, tuple[float, int, str]] = field(default_factory=dict)  # until, uses left, scope
    received: int = 0  # bytes of bodies
    sent: int = 0
    visible: list[str] = field(default_factory=list)  # holes that a reader could have met
    lock: threading.RLock = field(default_factory=threading.RLock)

    def paths(self, method: str = "") -> list[str]:
        """Every path asked for, in order."""
        return [path for m, path, _ in self.seen if method in ("", m)]

    def put_image(self, repository: str, tag: str, manifest: Mapping[str, Any] | bytes, *blobs: bytes,
                  media_type: str = "application/vnd.oci.image.manifest.v1+json") -> str:  # fmt: skip
        """The digest of a manifest that is simply there, with its blobs; nothing is checked."""
        data = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        digest = digest_of(data)
        for blob in blobs:
            self.state.blobs[digest_of(blob)] = blob
            self.state.members.setdefault(repository, set()).add(digest_of(blob))
        self.state.manifests.setdefault(repository, {})[digest] = (media_type, data)
        if tag:
            self.state.tags.setdefault(repository, {})[tag] = digest
        return digest


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class GoneError(Exception):
    """The connection was cut on purpose."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    registry: Registry
    plan = ""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        with suppress(GoneError, ConnectionError, TimeoutError):
            super().handle_one_request()
            return
        self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    # --- one request ---------------------------------------------------------------------------------------------
    def serve(self) -> None:
        registry = self.registry
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.left = int(self.headers.get("Content-Length") or 0)
        with registry.lock:
            registry.seen.append((self.command, parts.path, dict(self.headers)))
            self.plan = registry.fault(self) if registry.fault is not None else ""
            if self.plan:
                registry.faults.append(f"{self.plan} {self.command} {parts.path}")
        if (special := registry.special.get((self.command, parts.path))) is not None:
            special(self)
            return
        if self.plan and self.misbehave(parts.path):
            return
        if parts.path == "/token":
            self.give_token()
        elif self.allowed(parts.path):
            self.route(parts.path)

    def route(self, path: str) -> None:
        if path in ("/v2", "/v2/"):
            self.answer(200, b"{}")
            return
        for pattern, act in (
            (r"/v2/(.+)/blobs/uploads/", self.begin_upload),
            (r"/v2/(.+)/blobs/uploads/([0-9a-f-]+)", self.upload),
            (r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})", self.blob),
            (r"/v2/(.+)/manifests/([^/]+)", self.manifest),
            (r"/v2/(.+)/tags/list", self.list_tags),
            (r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})", self.list_referrers),
        ):
            if match := re.fullmatch(pattern, path):
                act(*match.groups())
                return
        self.refuse(404, "NOT_FOUND", "no such page")

    # --- who asks ------------------------------------------------------------------------------------------------
    def allowed(self, path: str) -> bool:
        habits, sent = self.registry.habits, self.headers.get("Authorization", "")
        reading = self.command in ("GET", "HEAD")
        if habits.basic:
            if sent == basic(habits.login):
                return True
            self.refuse(401, "UNAUTHORIZED", "who are you", {"WWW-Authenticate": 'Basic realm="x"'})
            return False
        if not habits.token:
            return True
        with self.registry.lock:
            until, uses, scope = self.registry.tokens.get(sent.removeprefix("Bearer "), (0.0, 0, ""))
            if until > time.monotonic() and uses != 0 and (reading or "push" in scope or "delete" in scope):
                self.registry.tokens[sent.removeprefix("Bearer ")] = (until, uses - 1, scope)
                return True
        name = (re.match(r"/v2/(.+?)/(?:blobs|manifests|tags|referrers)/", path) or [None, "x"])[1]
        actions = "pull" if reading else "pull,push"
        realm = habits.realm or f"http://{self.registry.address}/token"
        words = f'Bearer realm="{realm}",service="test",scope="repository:{name}:{actions}"'
        self.refuse(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": words})
        return False

    def give_token(self) -> None:
        habits = self.registry.habits
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        known = self.headers.get("Authorization") == basic(habits.login)
        if self.command == "POST":
            form = parse_qs(self.body().decode())
            scopes = form.get("scope", [""])[0].split()
            known = form.get("refresh_token") == [habits.identity_token] and bool(habits.identity_token)
        if not known and not habits.anonymous_pull:
            self.answer(401, json.dumps({"details": "incorrect username or password"}).encode())
            return
        scope = " ".join(scopes) if known else " ".join(s.replace("push", "") for s in scopes)
        token = uuid.uuid4().hex
        with self.registry.lock:
            self.registry.tokens[token] = (
                time.monotonic() + habits.token_life_s, habits.token_uses or -1, scope
            )  # fmt: skip
        self.answer(200, json.dumps({"token": token, "expires_in": habits.token_life_s}).encode())

    # --- blobs ---------------------------------------------------------------------------------------------------
    def blob(self, repository: str, digest: str) -> None:
        state, habits = self.registry.state, self.registry.habits
        if digest not in state.members.get(repository, ()):
            self.refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
            return
        if self.command == "DELETE":
            state.members[repository].discard(digest)
            self.answer(202, b"")
            return
        if habits.redirect_blobs and self.command == "GET":
            self.answer(307, b"", {"Location": f"{habits.redirect_blobs}/{digest}?signature=abc"})
            return
        self.send_blob(state.blobs[digest], digest)

    def send_blob(self, data: bytes, digest: str) -> None:
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.registry.habits.ranges:
            start = int(wanted[1])
            if start >= len(data):
                self.refuse(416, "RANGE", "nothing there")
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], headers)
            return
        self.answer(200, data, headers)

    def begin_upload(self, repository: str) -> None:
        state, habits = self.registry.state, self.registry.habits
        self.body()
        if not habits.create_on_push and repository not in state.members:
            message = f"The repository with name '{repository}' does not exist in the registry with id '1'"
            self.refuse(404, "NAME_UNKNOWN", message)
            return
        mount, source = self.query.get("mount", ""), self.query.get("from", "")
        if habits.mount and mount in state.members.get(source, ()):
            state.members.setdefault(repository, set()).add(mount)
            self.answer(201, b"", {"Location": f"/v2/{repository}/blobs/{mount}", "Docker-Content-Digest": mount})
            return
        name = str(uuid.uuid4())
        state.uploads[name] = bytearray()
        more = {"OCI-Chunk-Min-Length": str(habits.chunk_min_bytes)} if habits.chunk_min_bytes else {}
        self.answer(202, b"", {**self.whereabouts(repository, name), **more})

    def whereabouts(self, repository: str, name: str) -> dict[str, str]:
        size = len(self.registry.state.uploads[name])
        where = f"/v2/{repository}/blobs/uploads/{name}?_state=abc{size}"
        base = f"http://{self.registry.address}" if self.registry.habits.absolute_location else ""
        return {"Location": base + where, "Range": f"0-{max(0, size - 1)}", "Docker-Upload-UUID": name}

    def upload(self, repository: str, name: str) -> None:
        state, habits = self.registry.state, self.registry.habits
        if name not in state.uploads:
            self.body()
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown")
            return
        if self.command == "GET":
            self.answer(204, b"", self.whereabouts(repository, name))
            return
        if self.command == "DELETE":
            del state.uploads[name]
            self.answer(204, b"")
            return
        data = state.uploads[name]
        if habits.most_body_bytes and self.left > habits.most_body_bytes:
            self.answer(413, b"too large", {"Connection": "close"})
            self.cut()
        span = re.fullmatch(r"(\d+)-(\d+)", self.headers.get("Content-Range", ""))
        if span and int(span[1]) != len(data):
            self.body()
            self.refuse(416, "RANGE", "out of order", self.whereabouts(repository, name))
            return
        short = habits.chunk_min_bytes and self.left < habits.chunk_min_bytes
        try:
            self.body(data.extend)
        except (GoneError, OSError):
            if not habits.resumable:
                state.uploads.pop(name, None)
            raise
        if self.command == "PATCH":
            if short:
                state.uploads[name + "-last"] = data
            self.answer(202, b"", self.whereabouts(repository, name))
            return
        digest = self.query.get("digest", "")
        del state.uploads[name]
        if digest != digest_of(bytes(data)):
            self.refuse(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            return
        state.blobs[digest] = bytes(data)
        state.members.setdefault(repository, set()).add(digest)
        self.answer(201, b"", {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest})

    # --- manifests -----------------------------------------------------------------------------------------------
    def manifest(self, repository: str, target: str) -> None:
        state = self.registry.state
        manifests, tags = state.manifests.setdefault(repository, {}), state.tags.setdefault(repository, {})
        if self.command == "PUT":
            self.put_manifest(repository, target)
            return
        digest = target if ":" in target else tags.get(target, "")
        if digest not in manifests:
            self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        if self.command == "DELETE":
            if ":" in target:
                del manifests[digest]
                for tag in [t for t, d in tags.items() if d == digest]:
                    del tags[tag]
            else:
                del tags[target]
            self.answer(202, b"")
            return
        kind, data = manifests[digest]
        self.answer(200, data, {"Content-Type": kind, "Docker-Content-Digest": digest})

    def put_manifest(self, repository: str, target: str) -> None:
        state, habits = self.registry.state, self.registry.habits
        data = bytes(self.body())
        digest, document = digest_of(data), json.loads(data)
        tags = state.tags[repository]
        if ":" in target and target != digest:
            self.refuse(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            return
        if habits.immutable_tags and tags.get(target, digest) != digest:
            words = (
                f"The image tag '{target}' already exists in the '{repository}' repository and cannot be overwritten"
            )
            self.refuse(400, "TAG_INVALID", f"{words} because the repository is immutable.")
            return
        wanted = [document["config"], *document["layers"]] if "layers" in document else []
        holes = [b["digest"] for b in wanted if b["digest"] not in state.members.get(repository, ())]
        holes += [m["digest"] for m in document.get("manifests", []) if m["digest"] not in state.manifests[repository]]
        if holes and not target.startswith("sha256-"):
            self.registry.visible.append(f"{repository}:{target} without {holes}")
            self.refuse(400, "MANIFEST_BLOB_UNKNOWN", f"unknown {holes[0]}")
            return
        state.manifests[repository][digest] = (self.headers.get("Content-Type", ""), data)
        if ":" not in target:
            tags[target] = digest
        more = {}
        if habits.referrers and "subject" in document:
            more["OCI-Subject"] = document["subject"]["digest"]
        self.answer(
            201, b"", {"Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": digest, **more}
        )

    def list_tags(self, repository: str) -> None:
        names = sorted(self.registry.state.tags.get(repository, {}))
        page = self.registry.habits.page
        start = names.index(self.query["last"]) + 1 if self.query.get("last") in names else 0
        shown, more = names[start : start + page], names[start + page :]
        link = {"Link": f'</v2/{repository}/tags/list?n={page}&last={shown[-1]}>; rel="next"'} if more else {}
        self.answer(200, json.dumps({"name": repository, "tags": shown}).encode(), link)

    def list_referrers(self, repository: str, digest: str) -> None:
        if not self.registry.habits.referrers:
            self.refuse(404, "NOT_FOUND", "404 page not found")
            return
        found = []
        for own, (kind, data) in self.registry.state.manifests.get(repository, {}).items():
            document = json.loads(data)
            if document.get("subject", {}).get("digest") == digest:
                artifact = document.get("artifactType") or document["config"]["mediaType"]
                found.append({"mediaType": kind, "digest": own, "size": len(data), "artifactType": artifact,
                              "annotations": document.get("annotations", {})})  # fmt: skip
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        self.answer(200, json.dumps(document).encode(), {"Content-Type": OCI_INDEX})

    # --- bytes, and what goes wrong with them --------------------------------------------------------------------
    def body(self, take: Callable[[bytes], object] | None = None) -> bytearray:
        """Read the body; `take` gets the pieces as they come."""
        collected = bytearray()
        cut_after = self.cut_at(self.left, "drop-request")
        done = 0
        while self.left:
            piece = self.rfile.read1(min(PIECE, self.left))  # type: ignore[attr-defined]
            if not piece:
                raise GoneError
            with self.registry.lock:
                self.registry.received += len(piece)
            self.left -= len(piece)
            done += len(piece)
            (take or collected.extend)(piece)
            if cut_after is not None and done >= cut_after:
                self.cut()
        return collected

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer, unless the plan says otherwise."""
        if self.left and status >= 300:
            self.close_connection = True
        fields = {"Content-Length": str(len(body)), **self.registry.habits.headers, **(headers or {})}
        if self.plan == "lie-digest" and status in (200, 206) and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if self.plan == "lie-size" and status in (200, 206) and body and self.command != "HEAD":
            fields["Content-Length"] = str(len(body) + 7)
            self.close_connection = True
        if self.plan == "lie-header" and "Docker-Content-Digest" in fields:
            fields["Docker-Content-Digest"] = digest_of(b"something else")
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut_after = self.cut_at(len(body), "drop-answer")
        if self.plan == "end-answer" and len(body) > 1:  # in good order, so that what was sent arrives
            self.close_connection = True
            body = body[: len(body) // 2]
        if self.plan == "trickle" and body:
            for byte in body[:40]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
            self.cut()
        whole = body if cut_after is None else body[:cut_after]
        with self.registry.lock:
            self.registry.sent += len(whole)
        self.wfile.write(whole)
        if cut_after is not None:
            self.wfile.flush()
            self.cut()

    def misbehave(self, path: str) -> bool:
        """Whether the plan has been carried out instead of an answer."""
        if self.plan in ("429", "500", "502", "503"):
            self.drop_body()
            more = {"Retry-After": "1"} if self.plan == "429" else {}
            self.refuse(int(self.plan), "TOOMANYREQUESTS" if more else "UNKNOWN", "not now", more)
            return True
        if self.plan == "drop-before":
            self.cut()
        if self.plan == "expired" and self.registry.habits.token and path != "/token":
            with self.registry.lock:
                self.registry.tokens.pop(self.headers.get("Authorization", "").removeprefix("Bearer "), None)
        if self.plan == "redirect" and self.command == "GET" and "/blobs/sha256" in path:
            self.answer(307, b"", {"Location": f"{self.registry.habits.redirect_blobs}/{path.rpartition('/')[2]}"})
            return True
        return False

    def drop_body(self) -> None:
        if self.left:
            self.close_connection = True

    def cut_at(self, size: int, plan: str) -> int | None:
        """After how many bytes to cut the connection; None for never."""
        if self.plan != plan:
            return None
        return int.from_bytes(hashlib.sha256(f"{self.path}{len(self.registry.seen)}".encode()).digest()[:4], "big") % (
            size + 1
        )

    def cut(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        raise GoneError

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.answer(status, body, {"Content-Type": "application/json", **(headers or {})})


def basic(login: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


@contextmanager
def running(
    habits: Habits | None = None, *, handler: type[Handler] = Handler, tls: ssl.SSLContext | None = None
) -> Iterator[Registry]:
    """An empty registry on a free port of 127.0.0.1 for the length of a `with` block."""
    registry = Registry(habits or Habits())
    server = _Server(("127.0.0.1", 0), type("Bound", (handler,), {"registry": registry}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    registry.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Elsewhere(Handler):
    """Another host, which has blobs under `/DIGEST` and must never see a credential."""

    def route(self, path: str) -> None:
        data = self.registry.state.blobs.get(path.strip("/"))
        if data is None:
            self.refuse(404, "BLOB_UNKNOWN", "not here")
        else:
            self.send_blob(data, path.strip("/"))


@contextmanager
def elsewhere(of: Registry) -> Iterator[Registry]:
    """The host that `of` redirects to: it has the same blobs."""
    with running(handler=Elsewhere) as other:
        other.state = of.state
        yield other
