"""Package indexes as this machine's pip and uv configuration say.

Takes a `Host`; hands on an `IndexConfig` that `rooms.lock` passes to uv and `fetch` searches for files.

Rules, in order:
1. uv reads its own configuration and none of pip's; so when uv is configured for indexes, its settings count.
2. When only pip is configured, its settings are translated; pip merges all indexes, so uv is told to do the same
   (`unsafe-best-match`), see docs/decisions/0003-index-configuration.md.
3. A default index configured in either place is never replaced by the public one.
4. Credentials stay inside this value: `repr` hides them, uv gets them through its environment, never as arguments.

Spec: pip, "Configuration"; uv, "Package indexes" and "Environment variables".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from intermodal.host.etc import etc

if TYPE_CHECKING:
    from intermodal.host import Host

PUBLIC_INDEX = "https://pypi.org/simple"
SECTIONS = ("global", "install")  # a later one wins over an earlier one, the environment over both
TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})


def without_credentials(url: str) -> str:
    """`url` without user and password.

    >>> without_credentials("https://me:secret@index.example/simple")
    'https://index.example/simple'
    """
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@dataclass(frozen=True)
class IndexConfig:
    """Where packages come from on this machine; addresses may hold credentials, `repr` does not show them."""

    default: str = field(default=PUBLIC_INDEX, repr=False)  # "" with no_index
    extra: tuple[str, ...] = field(default=(), repr=False)
    find_links: tuple[str, ...] = field(default=(), repr=False)
    constraints: tuple[str, ...] = ()  # files or addresses
    cert: str = ""  # a bundle of certificate authorities
    client_cert: str = ""
    trusted_hosts: tuple[str, ...] = ()
    no_index: bool = False
    own_default: bool = False  # uv has a default index of its own and needs not be told
    origin: str = "default"  # default | pip | uv: whose configuration counts for indexes
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)  # by host[:port]
    files: tuple[str, ...] = ()  # configuration files that said something

    @property
    def indexes(self) -> tuple[str, ...]:
        """Every index, the default one last."""
        return (*self.extra, self.default) if self.default else self.extra

    @property
    def shown(self) -> str:
        """The configured places in one line for people, without credentials."""
        places = [without_credentials(url) for url in (*self.indexes, *self.find_links)]
        return ", ".join(places) or "no index (no-index is set)"

    def uv_environment(self) -> dict[str, str]:
        """What uv needs in its environment to see the same indexes; empty values are left out."""
        found: dict[str, str] = {}
        if self.cert:
            found["SSL_CERT_FILE"] = self.cert
        if self.client_cert:
            found["SSL_CLIENT_CERT"] = self.client_cert
        if self.trusted_hosts:
            found["UV_INSECURE_HOST"] = " ".join(self.trusted_hosts)
        if self.default and self.default != PUBLIC_INDEX and not self.own_default:
            found["UV_DEFAULT_INDEX"] = self.default
        if self.origin != "pip":
            return found
        if self.extra:
            found["UV_INDEX"] = " ".join(self.extra)
        if self.find_links:
            found["UV_FIND_LINKS"] = ",".join(self.find_links)
        if len(self.indexes) > 1:
            found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
        return found

    def uv_arguments(self) -> tuple[str, ...]:
        """What uv can be told only by arguments."""
        constraints = [part for path in self.constraints for part in ("--constraint", path)]
        return ("--no-index", *constraints) if self.no_index else tuple(constraints)


def read_index_config(host: Host) -> IndexConfig:
    """The indexes of this machine: uv's when uv is configured, else pip's, else the public one."""
    from intermodal.host.uv import read_uv_settings

    pip, files = read_pip_settings(host)
    uv = read_uv_settings(host)
    no_index = pip.get("no-index", "").lower() in TRUE
    pip_default = "" if no_index else pip.get("index-url", "").rstrip("/") or PUBLIC_INDEX
    pip_extra = tuple(url.rstrip("/") for url in pip.get("extra-index-url", "").split())
    pip_links = tuple(_existing_links(pip.get("find-links", "").split(), host))
    cert, client_cert = pip.get("cert", ""), pip.get("client-cert", "")
    if uv.configured:
        return IndexConfig(
            default="" if uv.no_index else uv.default or pip_default or PUBLIC_INDEX,
            extra=uv.extra,
            find_links=uv.find_links,
            no_index=uv.no_index,
            origin="uv",
            own_default=bool(uv.default),
            credentials=uv.credentials,
            files=uv.files,
            cert="" if host.environment.get("SSL_CERT_FILE") else cert,
            client_cert=client_cert,
            trusted_hosts=uv.trusted_hosts,
        )
    configured = bool(no_index or pip_extra or pip_links or pip.get("index-url"))
    return IndexConfig(
        default=pip_default,
        extra=() if no_index else pip_extra,
        find_links=pip_links,
        no_index=no_index,
        origin="pip" if configured else "default",
        files=files,
        cert=cert,
        client_cert=client_cert,
        trusted_hosts=tuple(pip.get("trusted-host", "").split()),
        constraints=tuple(pip.get("constraint", "").split()),
    )


def _existing_links(links: list[str], host: Host) -> Iterator[str]:
    """Links that exist: pip only warns about a missing folder, uv stops."""
    for link in links:
        if "://" in link:
            if not link.startswith("file://") or Path(urlsplit(link).path).exists():
                yield link
            continue
        path = Path(link.replace("~", str(host.home), 1) if link.startswith("~") else link)
        if path.exists():
            yield str(path.absolute())


def pip_config_files(host: Host) -> list[Path]:
    """The configuration files of pip, weakest first, whether they exist or not."""
    environment, home = host.environment, host.home
    chosen = environment.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    if host.system == "darwin":
        support = Path("Library/Application Support/pip/pip.conf")
        files = [Path("/") / support]
        user = [home / ".pip/pip.conf", home / support]
        if not user[1].parent.exists():
            user[1] = home / ".config/pip/pip.conf"
    else:
        shared = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
        files = [Path(folder) / "pip/pip.conf" for folder in shared if folder] + [etc(environment) / "pip.conf"]
        config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
        user = [home / ".pip/pip.conf", config / "pip/pip.conf"]
    if not (chosen and Path(chosen).exists()):
        files += user
    if environment.get("VIRTUAL_ENV"):
        files.append(Path(environment["VIRTUAL_ENV"]) / "pip.conf")
    if chosen:
        files.append(Path(chosen))
    return files


def read_pip_settings(host: Host) -> tuple[dict[str, str], tuple[str, ...]]:
    """The merged settings of pip for `pip install` (long option names), and the files that took part."""
    import configparser

    by_section: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    files = []
    for path in pip_config_files(host):
        parser = configparser.RawConfigParser()
        try:
            text = path.read_text("utf-8")
            parser.read_string(text)
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue  # absent, or broken in a way that pip itself will tell its user about
        files.append(str(path))
        for section in SECTIONS:
            if parser.has_section(section):
                values = {key.replace("_", "-").lstrip("-").lower(): value for key, value in parser.items(section)}
                by_section[section].update(values)
    merged: dict[str, str] = {}
    for section in SECTIONS:
        merged.update({key: value for key, value in by_section[section].items() if value.strip()})
    for variable, value in host.environment.items():
        if variable.startswith("PIP_") and variable != "PIP_CONFIG_FILE" and value.strip():
            merged[variable[4:].lower().replace("_", "-")] = value
    return merged, tuple(files)
