"""One request to one registry: address, credentials, redirects, retries, and what an answer means.

Takes what to ask for, hands on an `Answer` of the expected kind or raises.

Rules, in order:
1. The Authorization header goes to the registry's own origin (scheme, host, port) and nowhere else, whatever a
   redirect or a Location says.
2. TLS, unless the registry is this machine and speaks none, or the user has said so. A registry on loopback whose
   certificate is not believed is refused like any other; plain HTTP is no way around it.
3. Only GET and HEAD follow redirects, five at most; never from https to http.
4. What may pass is tried again (`Patience`); a body in pieces never is, because whoever sends it must first ask how
   far it came.

Spec: OCI distribution-spec 1.1, "API"; RFC 9110, "Redirection 3xx".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urljoin, urlsplit, urlunsplit

from msgspec import Struct

from intermodal.errors import RegistryError, RegistryUnreachableError
from intermodal.fetch.transfer import shown
from intermodal.host import Host
from intermodal.registry.auth import Authority, Scopes
from intermodal.registry.patience import Patience, may_pass, retry_after_s
from intermodal.registry.problems import refusal
from intermodal.registry.settings import RegistrySettings, Trust, is_loopback
from intermodal.registry.wire import Answer, Wire, speaks_tls

REDIRECTS = 5
FIRST_ATTEMPTS = 3  # before anything has answered there
LEARNINGS = 2
DRAIN_BYTES = 64 << 10
_MOVED = frozenset({301, 302, 303, 307, 308})

Pieces = Callable[[], Iterable[bytes | memoryview]]


class Ask(Struct, frozen=True):
    """One thing to ask a registry for."""

    method: str
    target: str  # path below the registry's address, or an absolute address that it gave us
    what: str  # for people: "pull manifest 1.0.0"
    repository: str
    scopes: Scopes
    ok: Collection[int]
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    pieces: Pieces | None = None  # a body in pieces, with Content-Length among the headers
    writing: bool = False
    limit: int = 0  # read the body at once, up to so many bytes, and ask again when it breaks; 0 leaves it unread


class Transport:
    """The way to one registry, shared by the threads of a run."""

    def __init__(self, settings: RegistrySettings, host: Host, wire: Wire, patience: Patience) -> None:
        self.settings = settings
        self.patience = patience
        self.authority = Authority(settings, host, wire, patience)
        self.speed = wire.speed
        self._host, self._wire = host, wire
        self._origin = ""
        self._reached = False
        self.chunk_bytes = 0  # so much of a blob at once, since something refused more; 0 for all of it
        self._guard = threading.Lock()

    @property
    def origin(self) -> str:
        """Scheme, host and port; decided once (rule 2)."""
        with self._guard:
            if not self._origin:
                settings = self.settings
                plain = settings.plain_http or (settings.loopback and not speaks_tls(settings.address))
                self._origin = f"{'http' if plain else 'https'}://{settings.address}"
            return self._origin

    @contextmanager
    def request(self, ask: Ask) -> Iterator[Answer]:
        """An answer with one of the statuses in `ask.ok`; without `ask.limit` its body is still to be read.

        Raises:
            RegistryUnreachableError: no answer, or one that may pass, to the last attempt.
            RegistryError, UnknownImageError: a refusal.
        """
        attempts = 1 if ask.pieces is not None else self.patience.attempts
        for attempt in range(attempts):
            asked: float | None = None
            with ExitStack() as stack:
                try:
                    answer = self._follow(stack, ask)
                    self._reached = True
                    if ask.limit and answer.status in ask.ok:
                        answer.read(ask.limit)
                except RegistryUnreachableError:
                    # a name that was typed wrong should not take long to be told
                    if attempt + 1 >= (attempts if self._reached else min(attempts, FIRST_ATTEMPTS)):
                        raise
                else:
                    if answer.status in ask.ok:
                        yield answer
                        return
                    asked = self._patient(answer, ask, last=attempt + 1 == attempts)
            self.patience.wait(attempt, asked)
        raise AssertionError("the last attempt returns or raises")

    def locate(self, answer: Answer, location: str) -> str:
        """The absolute address that a Location header of `answer` means.

        Raises:
            RegistryError: it leads from https to http, or to something else than either.
        """
        base, target = urlsplit(answer.url), urlsplit(urljoin(answer.url, location))
        if target.scheme == "http" and base.scheme == "https" and target.hostname == base.hostname:
            # a registry behind a proxy that ends TLS often does not know its own scheme
            target = target._replace(scheme=base.scheme, netloc=base.netloc)
        if target.scheme not in ("http", "https") or (target.scheme == "http" and base.scheme == "https"):
            raise RegistryError(
                f"will not follow {shown(answer.url)}", found=f"it leads to {shown(urlunsplit(target))}, without TLS"
            )
        if target.scheme == "http" and not self.settings.plain_http and not is_loopback(target.netloc):
            raise RegistryError(
                f"will not follow {shown(answer.url)}", found=f"it leads to {shown(urlunsplit(target))}, without TLS"
            )
        return urlunsplit(target._replace(netloc=target.netloc.rpartition("@")[2], fragment=""))

    def _patient(self, answer: Answer, ask: Ask, *, last: bool) -> float | None:
        """How long a busy registry asks us to wait; every other answer is raised as an error."""
        asked = retry_after_s(answer.headers, self._host.now_s)
        if may_pass(answer.status) and not last and (asked or 0.0) <= self.patience.most_wait_s:
            with suppress(RegistryError):
                answer.read(DRAIN_BYTES)
            return asked
        error = refusal(
            answer,
            ask.what,
            self.settings,
            scrub=self.authority.scrub,
            login=self.authority.known,
            writing=ask.writing,
            repository=ask.repository,
        )
        if isinstance(error, RegistryUnreachableError):
            error.wait_s = asked
        raise error

    def _follow(self, stack: ExitStack, ask: Ask) -> Answer:
        """The answer behind redirects and challenges; `stack` closes it."""
        url = ask.target if "://" in ask.target else self.origin + ask.target
        learned = redirected = 0
        while True:
            own = _origin(url) == _origin(self.origin)
            sent = self.authority.prepare(self.origin, ask.scopes) if own else None
            headers = dict(ask.headers) | ({"Authorization": sent} if sent else {})
            body = ask.pieces() if ask.pieces is not None else ask.body
            inner = ExitStack()
            trust = self.settings.trust if own else Trust()
            answer = inner.enter_context(self._wire.ask(ask.method, url, trust=trust, headers=headers, body=body))
            with inner:
                if answer.status == 401 and own and learned < LEARNINGS:
                    learned += 1
                    challenges = answer.challenges()
                    with suppress(RegistryError):
                        answer.read(DRAIN_BYTES)
                    if self.authority.learn(challenges, self.origin, ask.scopes, sent):
                        if ask.pieces is not None:
                            raise RegistryUnreachableError(f"cannot {ask.what}: the token has expired meanwhile")
                        continue
                if answer.status in _MOVED and ask.method in ("GET", "HEAD") and "Location" in answer.headers:
                    redirected += 1
                    if redirected > REDIRECTS:
                        raise RegistryError(f"cannot {ask.what}", found=f"more than {REDIRECTS} redirects")
                    url = self.locate(answer, answer.headers["Location"])
                    continue
                stack.push(inner.pop_all())
                return answer


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port
