"""The guard of API keys: nothing but the open paths without one.

Takes an exchange, hands on the caller's name in it. `X-API-Key` counts before `Authorization: Bearer`, because a
gateway may use the latter for itself; a key in the address or in the body counts nowhere. What is refused has not been
read.
"""

from __future__ import annotations

from collections.abc import Iterable

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.guard.keys import KeyRing
from intermodal_server.front.health import Health
from intermodal_server.front.limits import Refusal

HEALTH = (
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
    "/ping",
    "/health",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
)
ALL_HEALTH = "health"  # stands for the paths above in a list of open paths


class OpenPaths:
    """The paths that need no key and count towards no limit."""

    def __init__(self, listed: Iterable[str], name: str, version: str) -> None:
        paths: set[str] = set()
        for entry in listed:
            if entry == ALL_HEALTH:
                paths.update(path.format(name=name, version=version) for path in HEALTH)
            else:
                paths.add(entry.rstrip("/") or "/")
        self._paths = frozenset(paths)

    def __contains__(self, path: str) -> bool:
        return path in self._paths or (path.rstrip("/") or "/") in self._paths


class ApiKeys:
    """Refuses whoever brings no key."""

    def __init__(self, ring: KeyRing, open_paths: OpenPaths, health: Health) -> None:
        self._ring = ring
        self._open = open_paths
        self._health = health

    def __call__(self, exchange: Exchange) -> None:
        """Let the exchange pass, with the name of its caller.

        Raises:
            Refusal: 401.
        """
        self._ring.refresh(exchange.started_s)
        self._health.blocked = self._ring.problem
        if exchange.path in self._open:
            return
        headers = exchange.headers
        key = headers.get(b"x-api-key", "").strip()
        if not key:
            scheme, _, rest = headers.get(b"authorization", "").partition(" ")
            key = rest.strip() if scheme.lower() == "bearer" else ""
        name = self._ring.name_of(key)
        if name is None:
            raise _refusal(bool(key))
        exchange.caller = name


def _refusal(presented: bool) -> Refusal:
    if not presented:
        message = "an API key is needed: send it as Authorization: Bearer KEY or as X-API-Key"
        return Refusal(401, message, headers=((b"www-authenticate", b'Bearer realm="intermodal"'),))
    challenge = b'Bearer realm="intermodal", error="invalid_token"'
    return Refusal(401, "this API key is not known here", headers=((b"www-authenticate", challenge),))
