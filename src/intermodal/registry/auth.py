"""What we say about ourselves in each request to one registry: nothing, a password, or a token of limited scope.

Takes the challenges of that registry, hands on Authorization headers.

Rules, in order:
1. Nothing is sent before the registry has asked, and then only to itself: `transport` compares the whole origin.
2. A token server gets the login only when it is the registry's own host, or one that the user has named for it
   (`token_hosts`); any other may be asked without a login, over TLS.
3. A token is asked for exactly the scopes at hand, kept in memory until shortly before it expires, and asked for
   again when the registry no longer takes it.
4. No secret enters a message: `scrub` takes every one that this object has held out of foreign words.

Spec: distribution/distribution, "Token Authentication Specification"; "OAuth2 Token Authentication".
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from intermodal.errors import RegistryError, RegistryUnreachableError
from intermodal.fetch.transfer import shown
from intermodal.host import Host
from intermodal.registry.challenge import Challenge, parse_challenges
from intermodal.registry.credentials import Login, find_login
from intermodal.registry.patience import Patience, may_pass, retry_after_s
from intermodal.registry.settings import RegistrySettings, Trust, is_loopback
from intermodal.registry.wire import Wire

TOKEN_BYTES = 1 << 20
LIFE_S = 60.0  # of a token that does not say
MARGIN_S = 5.0

Scopes = tuple[str, ...]


class _Token(Struct, frozen=True):
    value: str
    until_s: float


class Authority:
    """Who we are to one registry; shared by the threads of a run."""

    def __init__(self, settings: RegistrySettings, host: Host, wire: Wire, patience: Patience) -> None:
        self._settings = settings
        self._host, self._wire, self._patience = host, wire, patience
        self._guard = threading.Lock()
        self._login: Login | None = None
        self._looked = False
        self._basic = False
        self._bearer: Mapping[str, str] | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._secrets: set[str] = set()

    def header(self, scopes: Scopes) -> str | None:
        """The Authorization header to send now, or None while the registry has not asked."""
        if self._basic and self._login is not None:
            return self._login.basic
        token = self._tokens.get(scopes)
        if token is not None and token.until_s > self._patience.now_s():
            return f"Bearer {token.value}"
        return None

    def prepare(self, origin: str, scopes: Scopes) -> str | None:
        """The header to send, with a token fetched now when the registry is known to want one for these scopes."""
        known = self.header(scopes)
        if known is not None or self._bearer is None:
            return known
        with self._guard:
            return self.header(scopes) or self._fetch(self._bearer, origin, scopes)

    def learn(self, challenges: Sequence[str], origin: str, scopes: Scopes, sent: str | None) -> bool:
        """Whether there is something else to send after a 401.

        Args:
            challenges: the WWW-Authenticate headers.
            origin: of the registry, "https://host:port".
            scopes: what the request needs.
            sent: the header that was refused.

        Raises:
            RegistryError: the token server refuses us, or is one that must not see the login.
            RegistryUnreachableError: the token server does not answer.
        """
        with self._guard:
            known = self.header(scopes)
            if known is not None and known != sent:
                return True  # another thread was faster
            offered = {c.scheme: c for c in reversed(parse_challenges(challenges))}
            if "bearer" in offered:
                return self._learn_bearer(offered["bearer"], origin, scopes)
            if "basic" in offered:
                login = self._find()
                self._basic = login is not None and bool(login.username or login.password)
                return self._basic and sent is None
            return False

    def scrub(self, text: str) -> str:
        """Foreign words as they may be shown: printable, short, without any secret of ours."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return "".join(c if c.isprintable() else " " for c in text)[:300]

    @property
    def known(self) -> str:
        """Where the login came from, or "" when there is none; for advice."""
        return self._login.origin if self._login is not None else ""

    def _find(self) -> Login | None:
        if not self._looked:
            self._login = find_login(self._host, self._settings.name)
            self._looked = True
            if self._login is not None:
                self._secrets |= set(self._login.secrets)
        return self._login

    def _learn_bearer(self, challenge: Challenge, origin: str, scopes: Scopes) -> bool:
        login = self._find()
        if login is not None and login.registry_token:
            fresh = scopes not in self._tokens
            self._keep(scopes, login.registry_token, 3600.0)
            return fresh
        if not challenge.parameters.get("realm"):
            return False
        self._bearer = challenge.parameters
        self._tokens.pop(scopes, None)
        return self._fetch(self._bearer, origin, scopes) is not None

    def _fetch(self, challenge: Mapping[str, str], origin: str, scopes: Scopes) -> str:
        realm, login = challenge["realm"], self._find()
        trust = self._may_see(realm, origin, login)
        query = {"service": challenge["service"]} if challenge.get("service") else {}
        headers: dict[str, str] = {"Accept": "application/json"}
        method, body = "GET", None
        if login is not None and login.identity_token:
            form = {**query, "grant_type": "refresh_token", "client_id": "intermodal", "scope": " ".join(scopes)}
            body = urlencode({**form, "refresh_token": login.identity_token}).encode()
            method, headers["Content-Type"] = "POST", "application/x-www-form-urlencoded"
            url = realm
        else:
            pairs = [*query.items(), *(("scope", scope) for scope in scopes)]
            url = realm + ("&" if "?" in realm else "?") + urlencode(pairs)
            if login is not None and (login.username or login.password):
                headers["Authorization"] = login.basic
        document = self._ask(method, url, trust, headers, body)
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
            raise RegistryError(f"{shown(realm)} answered no token", found=f"fields {sorted(map(str, document))[:8]}")
        life = document.get("expires_in")
        self._keep(scopes, value, float(life) if isinstance(life, int | float) and 0 < life < 1e7 else LIFE_S)
        return f"Bearer {value}"

    def _keep(self, scopes: Scopes, value: str, life_s: float) -> None:
        self._secrets.add(value)
        margin = MARGIN_S if life_s > 2 * MARGIN_S else 0.0
        self._tokens[scopes] = _Token(value, self._patience.now_s() + life_s - margin)

    def _may_see(self, realm: str, origin: str, login: Login | None) -> Trust:
        """Whose certificates count for the token server, once it is clear that it may be asked (rule 2)."""
        there, own = urlsplit(realm), urlsplit(origin)
        own_host = there.hostname == own.hostname
        if "@" in there.netloc or there.scheme not in ("http", "https") or not there.hostname:
            raise RegistryError(f"{self._settings.name} names no usable token server", found=self.scrub(realm))
        plain_allowed = own.scheme == "http" and (own_host or is_loopback(there.netloc))
        if there.scheme == "http" and not plain_allowed:
            raise RegistryError(
                f"{self._settings.name} wants its token fetched without TLS", found=shown(realm),
                next="its operator has to give an https address; nothing was sent there",
            )  # fmt: skip
        named = there.hostname in self._settings.token_hosts or there.netloc in self._settings.token_hosts
        if login is not None and not own_host and not named:
            raise RegistryError(
                f"{self._settings.name} wants its token from another host, which would see the login",
                found=f"{there.netloc}; nothing was sent there",
                next=f'if it belongs to them: registries.toml, ["{self._settings.name}"] '
                f'token_hosts = ["{there.netloc}"]',
            )
        return self._settings.trust if own_host or named else Trust()

    def _ask(
        self, method: str, url: str, trust: Trust, headers: Mapping[str, str], body: bytes | None
    ) -> dict[str, Any]:
        for attempt in range(self._patience.attempts):
            last = attempt + 1 == self._patience.attempts
            asked: float | None = None
            try:
                with self._wire.ask(method, url, trust=trust, headers=headers, body=body) as answer:
                    data = answer.read(TOKEN_BYTES)
                    if answer.status == 200:
                        return _object(data, url)
                    if not may_pass(answer.status) or last:
                        self._refused(url, answer.status, data)
                    asked = retry_after_s(answer.headers, self._host.now_s)
            except RegistryUnreachableError:
                if last:
                    raise
            self._patience.wait(attempt, asked)
        raise AssertionError("the last attempt returns or raises")

    def _refused(self, url: str, status: int, data: bytes) -> None:
        found = [f"{shown(url)} answered {status}"]
        if words := told(data):
            found.append(self.scrub(words))
        if may_pass(status):
            raise RegistryUnreachableError(f"{shown(url)} gives no token", found=found, next="try again later")
        origin = f"the login from {self.known}" if self.known else "us without a login"
        raise RegistryError(
            f"{self._settings.name} does not accept {origin}", found=found, next=login_advice(self._settings.name)
        )


def login_advice(registry: str) -> tuple[str, str]:
    """How to log in to a registry, as the second part of an error."""
    return (
        f"docker login {registry}   (or podman, skopeo login; their files are read)",
        f"in CI: INTERMODAL_REGISTRY={registry}, INTERMODAL_REGISTRY_USERNAME and INTERMODAL_REGISTRY_PASSWORD",
    )


def told(data: bytes) -> str:
    """What a registry's error document says, as "CODE: message; …"; "" when it is none."""
    try:
        document = json.loads(data)
        if isinstance(document, dict) and isinstance(document.get("errors"), list):
            return "; ".join(_words(item) for item in document["errors"][:3] if isinstance(item, dict))
        if isinstance(document, dict):
            return str(document.get("details") or document.get("message") or document.get("error") or "")
    except (ValueError, RecursionError):
        pass
    return ""


def _words(item: Mapping[str, Any]) -> str:
    return ": ".join(str(item[key]) for key in ("code", "message") if item.get(key))


def _object(data: bytes, url: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        # damaged on the way, or a page of something between: worth another try
        raise RegistryUnreachableError(f"{shown(url)} answered no JSON", found=f"{len(data)} bytes") from error
    if not isinstance(value, dict):
        raise RegistryError(f"{shown(url)} answered no JSON object", found=type(value).__name__)
    return value


def scopes_for(repository: str, *actions: str, mount_from: Iterable[str] = ()) -> Scopes:
    """The scopes of a request, in the one order that makes equal wishes equal keys.

    >>> scopes_for("team/digits", "push", "pull")
    ('repository:team/digits:pull,push',)
    """
    own = f"repository:{repository}:{','.join(sorted(actions))}"
    return (own, *(f"repository:{name}:pull" for name in sorted(set(mount_from) - {repository})))
