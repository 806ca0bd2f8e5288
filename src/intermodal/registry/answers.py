"""What the read-only registry answers: from a request to status, headers and bytes; no socket, no writing.

Takes a `Request` and the catalog, hands on an `Answer`, whose body is bytes or a part of one stored blob.

Rules, in order:
1. A browser may carry a stranger's page to us under the stranger's name (DNS rebinding), so `Host` must be an address,
   a name without dots, or one that only this machine or its containers know.
2. Only GET and HEAD; all else is 405 and its body is not read.
3. An address is one of the forms of the specification, as a whole, or it is 404. A name or digest selects an entry of
   the catalog; no text of a request ever becomes a path of this machine.
4. Errors have the specification's form, and tell nothing about this machine.
5. Manifests are re-hashed before they are sent. A blob goes out as it lies there; the client hashes it.

Spec: OCI distribution-spec 1.1, "Pull", "Content Discovery", "Error Codes"; RFC 9110 section 14 (ranges).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote

from msgspec import Struct, field
from msgspec.structs import replace

from intermodal.errors import InputError, StoreError
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import INDEX
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.registry.catalog import Catalog, Repository, find

_NAME = r"(?P<name>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
_ROUTE = re.compile(rf"/v2/{_NAME}/(?P<what>manifests|blobs|referrers|tags)/(?P<which>[A-Za-z0-9_+.:-]{{1,256}})")
_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")
_HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<six>[0-9a-fA-F:.]+)\])(?::[0-9]{1,5})?")
_MAX_TARGET = 4096
_KNOWN_ZONES = (".localhost", ".internal")  # host.docker.internal, host.minikube.internal


class Request(Struct, frozen=True):
    """What was asked; names of headers in lower case."""

    method: str
    target: str  # as it stood in the request line
    headers: Mapping[str, str] = field(default_factory=dict)


class Answer(Struct, frozen=True):
    """What to send: `body`, or `length` bytes of `file` from `start` on. HEAD sends neither."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Path | None = None
    start: int = 0
    length: int = 0

    @property
    def size_bytes(self) -> int:
        """What `Content-Length` says."""
        return self.length if self.file is not None else len(self.body)


def answer(request: Request, catalog: Catalog, store: Store) -> Answer:
    """The answer to any request whatever."""
    try:
        found = _answer(request, catalog, store)
    except StoreError as error:
        # its message names no folder, its evidence may
        found = _error(500, "UNKNOWN", f"the store cannot give this: {error.message}")
    common = {"Docker-Distribution-Api-Version": "registry/2.0", "X-Content-Type-Options": "nosniff"}
    return replace(found, headers={**common, **found.headers})


def _answer(request: Request, catalog: Catalog, store: Store) -> Answer:
    if not _is_ours(request.headers.get("host", "")):
        return _error(403, "DENIED", "this registry is asked by the addresses of its machine only")
    if request.method not in ("GET", "HEAD"):
        return replace(
            _error(405, "UNSUPPORTED", "this registry is read-only: intermodal build writes into its store"),
            headers={"Allow": "GET, HEAD", "Content-Type": "application/json"},
        )
    if len(request.target) > _MAX_TARGET or not request.target.startswith("/"):
        return _error(404, "NAME_UNKNOWN", "no such address")
    raw, _, question = request.target.partition("?")
    path, query = unquote(raw), {name: values[-1] for name, values in parse_qs(question).items()}
    if path in ("/v2", "/v2/"):
        return _json({})
    if path == "/v2/_catalog":
        names = list(catalog.repositories())
        return _page(names, "repositories", {}, path, query)
    route = _ROUTE.fullmatch(path)
    if route is None:
        return _error(404, "NAME_UNKNOWN", "no such address")
    name, what, which = route["name"], route["what"], route["which"]
    repository = find(catalog.repositories(), name, query.get("ns", ""))
    if repository is None:
        return _error(404, "NAME_UNKNOWN", "no image of that name", {"name": name})
    if what == "tags":
        if which != "list":
            return _error(404, "NAME_UNKNOWN", "no such address")
        return _page(sorted(repository.tags), "tags", {"name": name}, path, query)
    if what == "manifests":
        return _manifest(repository, which, store, request)
    if what == "blobs":
        return _blob(repository, which, store, request)
    return _referrers(repository, which, query)


def _is_ours(host: str) -> bool:
    """Whether `Host` cannot be the name of somebody's web page."""
    if not host:
        return True  # no browser leaves it out
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found["name"] or ""
    if name and ("." not in name or name.endswith(_KNOWN_ZONES)):
        return True
    try:
        ipaddress.ip_address(name or found["six"])
    except ValueError:
        return False
    return True


def _manifest(repository: Repository, which: str, store: Store, request: Request) -> Answer:
    if ":" in which:
        digest = _digest(which)
        if digest is None:
            return _error(400, "DIGEST_INVALID", "only sha256 digests are known here", {"digest": which})
        item = repository.manifests.get(digest)
    else:
        item = repository.tags.get(which)
    if item is None:
        return _error(404, "MANIFEST_UNKNOWN", "no such manifest", {"reference": which})
    document = store.document(item)
    headers = _identity(item.digest) | {"Content-Type": str(document.get("mediaType") or item.media_type)}
    if _unchanged(request, item.digest):
        return Answer(304, headers)
    return Answer(200, headers, store.read_bytes(item.digest))


def _blob(repository: Repository, which: str, store: Store, request: Request) -> Answer:
    digest = _digest(which)
    if digest is None:
        return _error(400, "DIGEST_INVALID", "only sha256 digests are known here", {"digest": which})
    # clients may fetch a manifest as a blob, too: its bytes are stored in the same way
    item = repository.blobs.get(digest) or repository.manifests.get(digest)
    path = store.path(digest)
    if item is None or not path.is_file():
        return _error(404, "BLOB_UNKNOWN", "no such blob", {"digest": which})
    size_bytes = path.stat().st_size
    if size_bytes != item.size_bytes:
        raise StoreError(f"blob {digest.short} has another size than its manifest says")
    headers = _identity(digest) | {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    if _unchanged(request, digest):
        return Answer(304, headers)
    start, end = 0, size_bytes
    status = 200
    if (wanted := _range(request, digest, size_bytes)) is not None:
        start, end = wanted
        if start >= end:
            refused = _error(416, "RANGE_INVALID", "the blob has no such bytes", {"size": size_bytes})
            return replace(refused, headers={**refused.headers, "Content-Range": f"bytes */{size_bytes}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
        status = 206
    return Answer(status, headers, file=path, start=start, length=end - start)


def _range(request: Request, digest: Digest, size_bytes: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None when the whole is wanted, or several ranges, which nobody needs."""
    found = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if found is None or request.headers.get("if-range", f'"{digest}"') != f'"{digest}"':
        return None
    first, last = found["first"], found["last"]
    if first:
        return int(first), min(size_bytes, int(last) + 1) if last else size_bytes
    return (max(0, size_bytes - int(last)), size_bytes) if last else None


def _referrers(repository: Repository, which: str, query: Mapping[str, str]) -> Answer:
    digest = _digest(which)
    if digest is None:
        return _error(400, "DIGEST_INVALID", "only sha256 digests are known here", {"digest": which})
    found = repository.referrers.get(digest, [])
    headers = {"Content-Type": INDEX}
    if kind := query.get("artifactType"):
        found = [item for item in found if item.get("artifactType") == kind]
        headers["OCI-Filters-Applied"] = "artifactType"
    return Answer(200, headers, canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}))


def _page(names: Iterable[str], key: str, more: Mapping[str, object], path: str, query: Mapping[str, str]) -> Answer:
    """A sorted list, or the part of it that `n` and `last` ask for."""
    count = query.get("n", "")
    if count and not (count.isascii() and count.isdigit() and len(count) < 10):
        return _error(400, "PAGINATION_NUMBER_INVALID", "n is no number", {"n": count[:40]})
    found = [name for name in names if name > query["last"]] if "last" in query else list(names)
    shown = found[: int(count)] if count else found
    listed = _json({**more, key: shown})
    if len(shown) == len(found) or not shown:
        return listed
    link = f'<{path}?n={count}&last={quote(shown[-1], safe="")}>; rel="next"'
    return replace(listed, headers={**listed.headers, "Link": link})


def _identity(digest: Digest) -> dict[str, str]:
    return {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def _unchanged(request: Request, digest: Digest) -> bool:
    known = request.headers.get("if-none-match", "").split(",")
    return f'"{digest}"' in {each.strip().removeprefix("W/") for each in known}


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InputError:
        return None


def _json(document: Mapping[str, object], status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _error(status: int, code: str, message: str, detail: Mapping[str, object] | None = None) -> Answer:
    return _json({"errors": [{"code": code, "message": message, "detail": detail or {}}]}, status)


def refusal(status: int, message: str) -> Answer:
    """The answer to what is no request that HTTP knows."""
    return replace(_error(status, "UNSUPPORTED", message), headers={"Content-Type": "application/json"})
