"""How each registry is reached from this machine: address, certificates, mirrors, and what the user agreed to.

Takes a `Host`, hands on one `RegistrySettings` a registry. Read from `registries.toml` in the configuration folder of
this user (`$XDG_CONFIG_HOME/intermodal`), one table a registry; certificates also from the folders that Docker and
podman know (`certs.d/HOST[:PORT]/`), so that a machine which can `docker pull` from a registry can do it here, too.

    ["registry.example.com:5000"]
    mirrors = ["mirror.example.com/hub"]   # asked first when pulling
    plain_http = true                      # no TLS; only loopback is spoken to so without being told
    ca = "/etc/ssl/our-ca.pem"
    client_cert = "/etc/ssl/me.crt"
    client_key = "/etc/ssl/me.key"
    token_hosts = ["auth.example.com"]     # other hosts that may see the credentials, for a token

Nothing here is a secret; credentials are `credentials`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from intermodal.errors import InputError
from intermodal.host import Host
from intermodal.host.etc import etc
from intermodal.registry.reference import DOCKER_HUB

FILE = "registries.toml"
HUB_HOST = "registry-1.docker.io"
# Registries whose tokens come from a host of the same owner, as their documentation says.
TOKEN_HOSTS: Mapping[str, tuple[str, ...]] = {
    DOCKER_HUB: ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
}


class Trust(Struct, frozen=True):
    """Whose certificates count, and which one is ours; empty names mean the machine's own authorities."""

    ca: str = ""
    client_cert: str = ""
    client_key: str = ""


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of `registries.toml`."""

    mirrors: tuple[str, ...] = ()
    plain_http: bool = False
    ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    token_hosts: tuple[str, ...] = ()


class RegistrySettings(Struct, frozen=True):
    """One registry, as this machine reaches it."""

    name: str
    address: str  # host[:port] that is asked
    plain_http: bool  # the user said so
    loopback: bool
    trust: Trust
    mirrors: tuple[str, ...] = ()
    token_hosts: tuple[str, ...] = ()


def read_settings(host: Host, registry: str, *, plain_http: bool = False) -> RegistrySettings:
    """What this machine knows of `registry`.

    Raises:
        InputError: `registries.toml` cannot be understood; the message names the place.
    """
    table = _tables(host).get(registry, Table())
    address = HUB_HOST if registry == DOCKER_HUB else registry
    found = _certificates(host, registry)
    return RegistrySettings(
        name=registry,
        address=address,
        plain_http=plain_http or table.plain_http,
        loopback=is_loopback(address),
        trust=Trust(
            ca=table.ca or found.ca or host.environment.get("SSL_CERT_FILE", ""),
            client_cert=table.client_cert or found.client_cert,
            client_key=table.client_key or found.client_key,
        ),
        mirrors=table.mirrors,
        token_hosts=(*TOKEN_HOSTS.get(registry, ()), *table.token_hosts),
    )


def is_loopback(address: str) -> bool:
    """Whether `host[:port]` can only be this machine.

    >>> is_loopback("127.0.0.1:5000"), is_loopback("[::1]:5000"), is_loopback("localhost.example.com")
    (True, True, False)
    """
    name = host_of(address)
    if name == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of `host[:port]`, without the brackets of an IPv6 address."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0]


def _tables(host: Host) -> dict[str, Table]:
    base = host.environment.get("XDG_CONFIG_HOME") or str(host.home / ".config")
    path = Path(base) / "intermodal" / FILE
    if not path.is_file():
        return {}
    import tomllib

    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), dict[str, Table])
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise InputError(
            f"cannot read {FILE}",
            found=f"{path}: {error}",
            next='one table a registry: ["registry.example.com"] with mirrors, plain_http, ca, client_cert, '
            "client_key, token_hosts",
        ) from error


def _certificates(host: Host, registry: str) -> Trust:
    """The first folder that Docker or podman keeps for this registry; each `*.cert` belongs to a `*.key`."""
    for folder in _folders(host, registry):
        try:
            names = sorted(path.name for path in folder.iterdir())
        except OSError:
            continue
        authority = next((n for n in names if n.endswith(".crt")), "")
        own = next((n for n in names if n.endswith(".cert") and f"{n.removesuffix('.cert')}.key" in names), "")
        return Trust(
            ca=str(folder / authority) if authority else "",
            client_cert=str(folder / own) if own else "",
            client_key=str(folder / f"{own.removesuffix('.cert')}.key") if own else "",
        )
    return Trust()


def _folders(host: Host, registry: str) -> Iterator[Path]:
    config = Path(host.environment.get("XDG_CONFIG_HOME") or host.home / ".config")
    yield config / "containers" / "certs.d" / registry
    for owner in ("docker", "containers"):
        yield etc(host.environment) / owner / "certs.d" / registry
