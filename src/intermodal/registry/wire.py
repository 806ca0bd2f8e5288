"""Connections to registries: pools, proxies, certificates, and limits on how slow an answer may be.

Takes a `Host` and addresses, hands on `Answer`s whose bodies are read piece by piece. The only file of this package
that opens sockets. Redirects, credentials and retries are not its business.

Rules, in order:
1. Every phase ends: connecting, each piece that is sent or awaited, the head of an answer as a whole, and a body that
   comes slower than `Speed` says. A peer that sends one byte now and then gains nothing by it.
2. Certificates are verified, by the registry's own authority when it has one.
3. Bodies are sent and read in pieces; nothing of their size is held in memory.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, cast

from intermodal.errors import RegistryError, RegistryUnreachableError
from intermodal.fetch.proxies import proxy_for
from intermodal.fetch.transfer import AGENT, reason, shown
from intermodal.host import Host
from intermodal.registry.pace import Speed, keep_pace
from intermodal.registry.patience import Manner
from intermodal.registry.settings import Trust

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

    from intermodal.registry.patient_pools import Live

PIECE_BYTES = 1 << 18
CONNECT_S = 15.0  # also for each piece that is sent
PROBE_S = 5.0


class Answer:
    """An answer whose body has not been read yet; close it."""

    def __init__(self, url: str, response: BaseHTTPResponse, speed: Speed) -> None:
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._speed = speed
        self._kept: bytes | None = None

    def challenges(self) -> list[str]:
        """All WWW-Authenticate headers, each for itself."""
        return list(self._response.headers.getlist("WWW-Authenticate"))

    def pieces(self) -> Iterator[bytes]:
        """The body in the pieces it arrives in.

        Raises:
            RegistryUnreachableError: it broke off, or came too slowly.
        """
        import urllib3

        try:
            yield from keep_pace(iter(lambda: self._response.read1(PIECE_BYTES, decode_content=False), b""),
                                 self._speed, shown(self.url))  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RegistryUnreachableError(f"the transfer of {shown(self.url)} broke", found=reason(error)) from error

    def read(self, limit: int) -> bytes:
        """The whole body; the same when asked again.

        Raises:
            RegistryError: it is longer than `limit`.
            RegistryUnreachableError: as `pieces` says.
        """
        if self._kept is not None:
            return self._kept
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > limit:
                raise RegistryError(f"{shown(self.url)} answered more than it may", found=f"more than {limit} bytes")
        stated = self.headers.get("Content-Length", "")
        if stated.isdigit() and int(stated) != len(body):
            raise RegistryUnreachableError(
                f"the transfer of {shown(self.url)} broke", found=f"{len(body)} of {int(stated)} bytes"
            )
        self._kept = bytes(body)
        return self._kept

    def done(self) -> None:
        """Give the connection back when nothing is left on it, else drop it."""
        if self._response.length_remaining == 0:
            self._response.drain_conn()  # http.client wants an empty body read, too, before the next request
            self._response.release_conn()
        elif not self._response.closed:
            self._response.close()


class Wire:
    """The connections of one run, shared by its threads; close it, or use it in a `with` block."""

    def __init__(self, host: Host, manner: Manner) -> None:
        self.host = host
        self.speed = manner.speed
        self.read_s = manner.read_s
        self._pools: dict[tuple[str, Trust], PoolManager] = {}
        self._live: Live | None = None
        self._guard = threading.Lock()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.clear()

    def shut(self) -> None:
        """End every transfer that is going on, also of other threads: they get an error at once."""
        if self._live is not None:
            self._live.shut()

    @contextmanager
    def ask(
        self,
        method: str,
        url: str,
        *,
        trust: Trust,
        headers: Mapping[str, str],
        body: Iterable[bytes | memoryview] | bytes | None = None,
    ) -> Iterator[Answer]:
        """One answer to one request.

        Args:
            method: of HTTP.
            url: http or https, without credentials.
            trust: whose certificates count.
            headers: besides our own; with Content-Length when `body` is in pieces.
            body: what to send; when it raises an error of ours, the request is broken off and the error passes.

        Raises:
            RegistryUnreachableError: no connection, it broke, or nothing came in time.
            RegistryError: the registry's certificate is not one we believe.
        """
        import urllib3

        sent = {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}
        try:
            response = self._pool(url, trust).request(
                method,
                url,
                headers=sent,
                body=cast("Iterable[bytes]", body),
                preload_content=False,
                redirect=False,
                retries=False,
            )
        except urllib3.exceptions.SSLError as error:
            _refuse_certificate(url, error)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error.__cause__ or error, urllib3.exceptions.SSLError):
                _refuse_certificate(url, error)
            raise RegistryUnreachableError(
                f"cannot reach {shown(url).split('/')[2]}", found=f"{method} {shown(url)}: {reason(error)}"
            ) from error
        answer = Answer(url, response, self.speed)
        try:
            yield answer
        finally:
            answer.done()

    def _pool(self, url: str, trust: Trust) -> PoolManager:
        proxy = proxy_for(self.host.environment, url)
        key = (proxy, trust)
        with self._guard:
            if key not in self._pools:
                self._pools[key] = self._make_pool(proxy, trust)
            return self._pools[key]

    def _make_pool(self, proxy: str, trust: Trust) -> PoolManager:
        import urllib3

        from intermodal.registry.patient_pools import Live, pools

        self._live = self._live or Live()
        options: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=CONNECT_S, read=self.read_s),
            "maxsize": 8,
            "cert_reqs": "CERT_REQUIRED",
            "ca_certs": trust.ca or None,
            "cert_file": trust.client_cert or None,
            "key_file": trust.client_key or None,
        }
        manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = pools(self._live)
        return manager


def speaks_tls(address: str) -> bool:
    """Whether something at `host[:port]` of this machine answers to TLS; verifies nothing and sends nothing else.

    Raises:
        RegistryUnreachableError: nobody listens there.
    """
    import ssl

    from intermodal.registry.settings import host_of

    name = host_of(address)
    port = address.rpartition(":")[2]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for place in (int(port),) if port.isdigit() and address != name else (443, 80):
        try:
            connection = socket.create_connection((name, place), PROBE_S)
        except OSError as error:
            failure = error
            continue
        try:
            with connection, context.wrap_socket(connection, server_hostname=name):
                return True
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")  # it speaks TLS, and wants more than we have said
        except (OSError, ValueError):
            return False
    raise RegistryUnreachableError(f"cannot reach {address}", found=failure.strerror or str(failure)) from failure


def _refuse_certificate(url: str, error: BaseException) -> NoReturn:
    place = shown(url).split("/")[2]
    raise RegistryError(
        f"will not talk to {place}: its certificate is not one that this machine believes",
        found=reason(error),
        next=(
            f'name its authority in registries.toml: ["{place}"] ca = "/path/to/ca.pem"',
            f"or put it into /etc/docker/certs.d/{place}/ca.crt",
        ),
    ) from error
