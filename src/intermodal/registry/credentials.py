"""Who we are to a registry: found when it asks, for exactly that registry, kept nowhere.

Takes a `Host` and a registry's name, hands on a `Login` or None.

Rules, in order:
1. `INTERMODAL_REGISTRY_USERNAME` and `INTERMODAL_REGISTRY_PASSWORD` (or `INTERMODAL_REGISTRY_TOKEN`) count for the
   one registry that `INTERMODAL_REGISTRY` names; without that name they count for none.
2. `DOCKER_AUTH_CONFIG` holds a whole `config.json`, as GitLab hands it to its jobs.
3. Docker's `config.json`, then podman's `auth.json`: `credHelpers` of the registry, else its entry in `auths`, else
   `credsStore`. The name must be equal; a parent domain or another port is another registry.
4. A helper is a program `docker-credential-NAME` on the PATH. It gets the registry's name on its standard input,
   nothing else; what it says is never shown.

Spec: docker/docker-credential-helpers, "Usage"; containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from intermodal.errors import RegistryError
from intermodal.host import Host
from intermodal.registry.reference import DOCKER_HUB

HELPER_S = 30.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_KEYS = ("https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io")
_NO_LOGIN = ("credentials not found", "no credentials", "not found in native keychain")


class Login(Struct, frozen=True):
    """One way to say who we are; `repr` and `str` show none of it."""

    username: str = ""
    password: str = ""
    identity_token: str = ""  # changes into tokens by OAuth 2, instead of the password
    registry_token: str = ""  # is sent as it is
    origin: str = ""  # for people: "~/.docker/config.json"

    def __repr__(self) -> str:
        return f"Login(from {self.origin or '?'})"

    __str__ = __repr__

    @property
    def basic(self) -> str:
        """The Authorization header of HTTP's Basic scheme."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Whatever of this must never be shown."""
        words = (self.password, self.identity_token, self.registry_token, self.basic.removeprefix("Basic "))
        return tuple(word for word in words if len(word) > 3)


def find_login(host: Host, registry: str) -> Login | None:
    """The login for `registry`, or None when this machine has none for it.

    Raises:
        RegistryError: a configuration names a credential helper that is missing or fails.
    """
    environment = host.environment
    if environment.get("INTERMODAL_REGISTRY", "").lower() == registry:
        token = environment.get("INTERMODAL_REGISTRY_TOKEN", "")
        user = environment.get("INTERMODAL_REGISTRY_USERNAME", "")
        password = environment.get("INTERMODAL_REGISTRY_PASSWORD", "")
        if token or user or password:
            return Login(user, password, registry_token=token, origin="INTERMODAL_REGISTRY")
    for origin, document in _documents(host):
        found = _from_document(host, document, registry, origin)
        if found is not None:
            return found
    return None


def _documents(host: Host) -> Iterator[tuple[str, Mapping[str, Any]]]:
    environment = host.environment
    if text := environment.get("DOCKER_AUTH_CONFIG"):
        yield "DOCKER_AUTH_CONFIG", _parse(text)
    docker = Path(environment.get("DOCKER_CONFIG") or host.home / ".docker") / "config.json"
    podman = environment.get("REGISTRY_AUTH_FILE") or (
        f"{environment['XDG_RUNTIME_DIR']}/containers/auth.json" if environment.get("XDG_RUNTIME_DIR") else ""
    )
    for path in (docker, *([Path(podman)] if podman else ())):
        try:
            yield str(path), _parse(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError):
            continue


def _parse(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}  # Docker itself will tell its user; nothing of the text may be shown here
    return value if isinstance(value, dict) else {}


def _keys(registry: str) -> tuple[str, ...]:
    if registry == DOCKER_HUB:
        return _HUB_KEYS
    return (
        registry,
        f"https://{registry}",
        f"https://{registry}/",
        f"https://{registry}/v1/",
        f"https://{registry}/v2/",
    )


def _from_document(host: Host, document: Mapping[str, Any], registry: str, origin: str) -> Login | None:
    keys = _keys(registry)
    helpers, entries = document.get("credHelpers"), document.get("auths")
    for key in keys:
        if isinstance(helpers, dict) and isinstance(name := helpers.get(key), str):
            return _ask_helper(host, name, (key,), origin)
    for key in keys:
        entry = entries.get(key) if isinstance(entries, dict) else None
        if isinstance(entry, dict) and (login := _from_entry(entry, origin)) is not None:
            return login
    if isinstance(store := document.get("credsStore"), str) and store:
        return _ask_helper(host, store, keys, origin)
    return None


def _from_entry(entry: Mapping[str, Any], origin: str) -> Login | None:
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if isinstance(encoded := entry.get("auth"), str) and encoded:
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        user, _, password = decoded.partition(":")
    identity, token = str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or "")
    if not (user or password or identity or token):
        return None
    return Login(user, password.strip("\0"), identity, token, origin)


def _ask_helper(host: Host, name: str, keys: tuple[str, ...], origin: str) -> Login | None:
    import shutil
    import subprocess

    program = f"docker-credential-{name}"
    path = shutil.which(program, path=host.environment.get("PATH")) if _HELPER_NAME.fullmatch(name) else None
    if path is None:
        raise RegistryError(
            f"the credential helper {program[:80]} is missing",
            found=f"{origin} says that it knows the login for {keys[0]}",
            next=f"install {program[:80]}, or take its name out of that file and log in again (docker login)",
        )
    for key in keys:
        try:
            done = subprocess.run(
                [path, "get"],
                input=key.encode(),
                capture_output=True,
                timeout=HELPER_S,
                check=False,
                env=dict(host.environment),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _helper_failed(program, origin, f"it does not answer ({type(error).__name__})") from error
        answer = _parse(done.stdout.decode("utf-8", "replace"))
        if done.returncode == 0 and answer.get("Secret"):
            user, secret = str(answer.get("Username") or ""), str(answer["Secret"])
            if user == "<token>":
                return Login(identity_token=secret, origin=origin)
            return Login(user, secret, origin=origin)
        told = (done.stdout + done.stderr).decode("utf-8", "replace").lower()
        if done.returncode and not any(words in told for words in _NO_LOGIN):
            raise _helper_failed(program, origin, f"it ended with status {done.returncode}")
    return None


def _helper_failed(program: str, origin: str, why: str) -> RegistryError:
    return RegistryError(
        f"the credential helper {program} failed",
        found=f"{why}; {origin} names it",
        next=f"see what it says: echo HOST | {program} get",
    )
