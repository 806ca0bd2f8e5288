"""Credentials for one host: found when they are needed, never stored, never sent elsewhere.

Takes a `Host` and an address; hands on user and password, or None. The order: the address itself, uv's variables for
a named index, an index or mirror configured with credentials on the same host, netrc.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from intermodal.host import Host


def find(host: Host, url: str) -> tuple[str, str] | None:
    """User and password for `url`'s host and port, or None.

    A credential configured for https is not used for http on the same host.
    """
    own = _from_url(url)
    if own is not None:
        return own
    place = _place(url)
    config = host.indexes
    for known, login in config.credentials.items():
        if known == urlsplit(url).netloc.rpartition("@")[2] and not _insecure(url, config.indexes):
            return login
    places = [*config.indexes, *config.find_links, *(source.uri for source in host.apt_sources)]
    for candidate in places:
        if "://" in candidate and _place(candidate) == place:
            found = _from_url(candidate)
            if found is not None:
                return found
    return _from_netrc(host, urlsplit(url).hostname or "")


def _place(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _insecure(url: str, indexes: tuple[str, ...]) -> bool:
    """True when `url` is plain http on a host that is configured for https."""
    parts = urlsplit(url)
    schemes = {urlsplit(i).scheme for i in indexes if urlsplit(i).hostname == parts.hostname}
    return parts.scheme == "http" and "http" not in schemes and bool(schemes)


def _from_url(url: str) -> tuple[str, str] | None:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return None
    return unquote(parts.username or ""), unquote(parts.password or "")


def _from_netrc(host: Host, name: str) -> tuple[str, str] | None:
    path = Path(host.environment.get("NETRC") or host.home / ".netrc")
    if not name or not path.is_file():
        return None
    import netrc

    try:
        entry = netrc.netrc(str(path)).authenticators(name)
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
        return None
    return (entry[0] or "", entry[2] or "") if entry else None
