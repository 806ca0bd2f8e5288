"""uv's own index configuration: uv.toml of the system and the user, and UV_* variables.

Takes a `Host`; hands `UvSettings` to `host.pip`, which decides whose configuration counts. uv reads all of this by
itself when it resolves; it is read here too because `fetch` looks files up in the same indexes. A project's own
`[tool.uv]` is uv's business: it runs in the project's folder.

Spec: uv, "Configuration files"; "Environment variables".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from intermodal.host.etc import etc

if TYPE_CHECKING:
    from intermodal.host import Host

_NAMED = re.compile(r"^([A-Za-z0-9_.-]+)=(.+)$")


@dataclass(frozen=True)
class UvSettings:
    """What uv is configured for; `configured` is False when it says nothing about indexes."""

    default: str = field(default="", repr=False)
    extra: tuple[str, ...] = field(default=(), repr=False)
    find_links: tuple[str, ...] = field(default=(), repr=False)
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    files: tuple[str, ...] = ()

    @property
    def configured(self) -> bool:
        """Whether uv has any setting about indexes."""
        return bool(self.default or self.extra or self.find_links or self.no_index)


def uv_config_files(host: Host) -> list[Path]:
    """The configuration files of uv, weakest first, whether they exist or not."""
    environment = host.environment
    if environment.get("UV_NO_CONFIG", "").lower() in {"1", "true"}:
        return []
    if environment.get("UV_CONFIG_FILE"):
        return [Path(environment["UV_CONFIG_FILE"])]
    shared = [folder for folder in (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if folder]
    system = next((p for f in shared if (p := Path(f) / "uv/uv.toml").exists()), etc(environment) / "uv/uv.toml")
    return [system, Path(environment.get("XDG_CONFIG_HOME") or host.home / ".config") / "uv/uv.toml"]


def read_uv_settings(host: Host) -> UvSettings:
    """The index settings of uv: the environment over the user's file over the system's."""
    default, extra, links, no_index, files = "", list[tuple[str, str]](), list[str](), False, list[str]()
    hosts: list[str] = []
    for path in uv_config_files(host):
        try:
            document = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            continue  # absent, or uv itself will report it
        files.append(str(path))
        for table in (document, document.get("pip", {})):
            found = _table(table)
            default = found[0] or default
            extra = found[1] + extra
            links = found[2] + links
            no_index = no_index or bool(table.get("no-index"))
            hosts += [str(item) for item in table.get("allow-insecure-host", [])]
    env = host.environment
    default = env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or default
    given = [*env.get("UV_INDEX", "").split(), *env.get("UV_EXTRA_INDEX_URL", "").split()]
    extra = [_named(text) for text in given] + extra
    links = [item for item in env.get("UV_FIND_LINKS", "").split(",") if item] + links
    no_index = no_index or env.get("UV_NO_INDEX", "").lower() in {"1", "true"}
    hosts += env.get("UV_INSECURE_HOST", "").split()
    name, default = _named(default)
    named = [(name, default), *extra]
    return UvSettings(
        default=default.rstrip("/"),
        extra=tuple(dict.fromkeys(url.rstrip("/") for _, url in extra)),
        find_links=tuple(dict.fromkeys(links)),
        no_index=no_index,
        trusted_hosts=tuple(dict.fromkeys(hosts)),
        credentials=_credentials(named, env),
        files=tuple(files),
    )


def _table(table: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]], list[str]]:
    default = str(table.get("index-url", ""))
    extra = [("", str(url)) for url in table.get("extra-index-url", [])]
    for entry in table.get("index", []):
        name, url = str(entry.get("name", "")), str(entry.get("url", ""))
        if entry.get("default"):
            default = f"{name}={url}" if name else url
        elif url and not entry.get("explicit"):
            extra.append((name, url))
    return default, extra, [str(link) for link in table.get("find-links", [])]


def _named(text: str) -> tuple[str, str]:
    match = _NAMED.match(text)
    return (match[1], match[2]) if match else ("", text)


def _credentials(named: list[tuple[str, str]], env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found = {}
    for name, url in named:
        key = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
        user, password = env.get(f"UV_INDEX_{key}_USERNAME", ""), env.get(f"UV_INDEX_{key}_PASSWORD", "")
        if name and url and (user or password):
            found[urlsplit(url).netloc.rpartition("@")[2]] = (user, password)
    return found
