"""One HTTP or file transfer: connections, redirects, credentials, retries.

Takes a `Host` and an address; hands on a stream of bytes.

Rules, in order:
1. Credentials come from the address itself, from uv's per-index variables, from an index configured with them, or
   from netrc, for exactly that host and port; a redirect to another host, or from https to http, carries none.
2. A redirect is followed at most five times and never leaves http and https.
3. What may pass (a broken connection, 408, 425, 429, 5xx) is tried again with growing pauses; what will not is not.
4. An error names host and path, never a user, password or query.

Spec: RFC 9110, "Redirection 3xx", "Range Requests"; netrc(5).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from intermodal.errors import DownloadError, HostError, IndexUnreachableError
from intermodal.host import Host
from intermodal.host.files import failure
from intermodal.host.pip import without_credentials

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

CHUNK_BYTES = 1 << 18
REDIRECTS = 5
ATTEMPTS = 3
PAUSE_S = 0.4
RETRIABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
AGENT = "intermodal"


class NotThereError(DownloadError):
    """The server answered that it has no such file; trying again will not help."""

    retriable = False


def shown(url: str) -> str:
    """`url` for people: host and path, no credentials, no query."""
    parts = urlsplit(without_credentials(url))
    return urlunsplit(parts._replace(query="", fragment=""))


def file_path(url: str) -> Path:
    """The local path of a `file:` address."""
    return Path(unquote(urlsplit(url).path))


class Transfers:
    """Connections of one run, shared by its threads; close it, or use it in a `with` block."""

    def __init__(self, host: Host, *, timeout_s: float = 30.0) -> None:
        self.host = host
        self.timeout_s = timeout_s
        self._pools: dict[str, PoolManager] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> Transfers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.clear()

    @contextmanager
    def open(self, url: str, *, start: int = 0, accept: str = "*/*") -> Iterator[tuple[Iterator[bytes], int]]:
        """The bytes behind `url` as pieces, and the offset they really start at (0 when Range was not honoured).

        Args:
            url: http, https or file address; user and password in it are used for its host only.
            start: offset in bytes to continue from.
            accept: value of the Accept header.

        Raises:
            NotThereError: 404 or 410, or the local file does not exist.
            IndexUnreachableError: no connection, or the server stays broken.
            DownloadError: another refusal, too many redirects, a scheme we do not follow.
        """
        if url.startswith("file:"):
            yield from self._open_file(url, start)
            return
        response = self._request(url, {"Accept": accept, **({"Range": f"bytes={start}-"} if start else {})})
        try:
            offset = start if response.status == 206 else 0
            yield _pieces(response, url), offset
        finally:
            response.close()
            response.release_conn()

    def _open_file(self, url: str, start: int) -> Iterator[tuple[Iterator[bytes], int]]:
        path = file_path(url)
        try:
            stream = path.open("rb")
        except FileNotFoundError as error:
            raise NotThereError(f"cannot fetch {path.name}", found=f"{path} does not exist") from error
        except OSError as error:
            raise failure(f"cannot read {path.name}", path, error, variable="") from error
        with stream:
            stream.seek(start)
            yield iter(lambda: stream.read(CHUNK_BYTES), b""), start

    def _request(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        import urllib3

        first = url
        for attempt in range(ATTEMPTS):
            try:
                response = self._follow(url, headers)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if attempt + 1 == ATTEMPTS or isinstance(error, urllib3.exceptions.SSLError):
                    _unreachable(first, error)
            else:
                if response.status < 400:
                    return response
                response.close()
                if response.status not in RETRIABLE or attempt + 1 == ATTEMPTS:
                    _refused(first, response.status)
            time.sleep(PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _follow(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        origin = urlsplit(without_credentials(url))
        login = self._credentials(url)
        for _ in range(REDIRECTS + 1):
            parts = urlsplit(without_credentials(url))
            same = (parts.scheme, parts.netloc) == (origin.scheme, origin.netloc)
            sent = dict(headers) | {"User-Agent": AGENT, "Accept-Encoding": "identity"}
            if (found := login if same else self._credentials(url)) is not None:
                sent["Authorization"] = found
            response = self._pool(url).request(
                "GET",
                urlunsplit(parts._replace(fragment="")),
                headers=sent,
                preload_content=False,
                redirect=False,
                retries=False,
            )
            location = response.headers.get("Location")
            if response.status not in {301, 302, 303, 307, 308} or not location:
                return response
            response.close()
            response.release_conn()
            target = without_credentials(urljoin(urlunsplit(parts), location))
            scheme = urlsplit(target).scheme
            if scheme not in {"http", "https"} or (parts.scheme == "https" and scheme == "http"):
                raise DownloadError(f"will not follow a redirect of {shown(url)}", found=f"it leads to {shown(target)}")
            url = target
        raise DownloadError(f"cannot fetch {shown(url)}", found=f"more than {REDIRECTS} redirects")

    def _credentials(self, url: str) -> str | None:
        """The Authorization header that `url`'s own host may see, or None."""
        from intermodal.fetch.credentials import find

        login = find(self.host, url)
        if login is None:
            return None
        import base64

        return "Basic " + base64.b64encode(f"{login[0]}:{login[1]}".encode()).decode()

    def _pool(self, url: str) -> PoolManager:
        from intermodal.fetch.proxies import proxy_for

        host = (urlsplit(url).hostname or "").lower()
        trusted = {name.partition(":")[0].lower() for name in self.host.indexes.trusted_hosts}
        proxy = proxy_for(self.host.environment, url)
        key = f"{proxy} {host in trusted}"
        with self._guard:
            if key not in self._pools:
                self._pools[key] = self._make_pool(proxy, verify=host not in trusted)
            return self._pools[key]

    def _make_pool(self, proxy: str, *, verify: bool) -> PoolManager:
        import urllib3

        config = self.host.indexes
        authorities = config.cert or self.host.environment.get("SSL_CERT_FILE") or None
        options: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=min(10.0, self.timeout_s), read=self.timeout_s),
            "maxsize": 8,
            "cert_reqs": "CERT_REQUIRED" if verify else "CERT_NONE",
            "ca_certs": authorities if verify else None,
            "cert_file": config.client_cert or None,
        }
        if proxy:
            return urllib3.ProxyManager(proxy, **options)
        return urllib3.PoolManager(**options)


def _pieces(response: BaseHTTPResponse, url: str) -> Iterator[bytes]:
    import urllib3

    try:
        yield from response.stream(CHUNK_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise DownloadError(
            f"the transfer of {shown(url)} broke",
            found=reason(error),
            next="check the network and run it again: what has arrived is kept",
        ) from error


def read_limited(pieces: Iterator[bytes], limit: int, name: str) -> bytes:
    """All bytes of `pieces`.

    Raises:
        DownloadError: more than `limit` bytes came; the rest was not read.
    """
    collected = bytearray()
    for piece in pieces:
        collected += piece
        if len(collected) > limit:
            raise DownloadError(f"{name} is larger than it may be", found=f"more than {limit} bytes")
    return bytes(collected)


def fetch_bytes(url: str, limit: int, *, host: Host, accept: str = "*/*") -> bytes:
    """A small document.

    Args:
        url: http, https or file address.
        limit: most bytes to read.
        host: whose certificates, credentials and proxies count.
        accept: value of the Accept header.

    Raises:
        NotThereError, IndexUnreachableError, DownloadError: as `Transfers.open` and `read_limited` say.
    """
    with Transfers(host) as transfers, transfers.open(url, accept=accept) as (pieces, _):
        return read_limited(pieces, limit, shown(url))


def reason(error: BaseException) -> str:
    """What went wrong on a connection, in the words of the system, without addresses."""
    import urllib3

    if isinstance(error, urllib3.exceptions.ProtocolError) and len(error.args) > 1:
        error = error.args[1] if isinstance(error.args[1], BaseException) else error
    text = str(error)
    for marker in (": ", "] "):  # urllib3 starts with the connection's address
        if text.startswith(("<", "HTTP")) and marker in text:
            text = text.split(marker, 1)[1]
    return text[:200] or type(error).__name__


def _unreachable(url: str, error: BaseException) -> NoReturn:
    parts = urlsplit(without_credentials(url))
    if isinstance(error, HostError):
        raise error
    raise IndexUnreachableError(
        f"cannot reach {parts.netloc}",
        found=f"{shown(url)}: {reason(error)}",
        next="check the network, proxy and index settings: intermodal doctor",
    ) from error


def _refused(url: str, status: int) -> NoReturn:
    where = f"{shown(url)} answered {status}"
    name = shown(url).rpartition("/")[2] or shown(url)
    if status in (404, 410):
        raise NotThereError(f"cannot fetch {name}", found=where)
    if status in (401, 403, 407):
        raise DownloadError(
            f"cannot fetch {name}",
            found=f"{where}: credentials are missing or wrong",
            next="put them into ~/.netrc, or into UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD",
        )
    if status in RETRIABLE:
        raise IndexUnreachableError(
            f"{urlsplit(shown(url)).netloc} does not answer properly", found=where, next="try again later"
        )
    raise DownloadError(f"cannot fetch {name}", found=where)


__all__ = ["NotThereError", "Transfers", "fetch_bytes", "file_path", "read_limited", "reason", "shown"]
