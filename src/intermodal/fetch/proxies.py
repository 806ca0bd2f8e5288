"""Which proxy an address goes through, by the usual variables of the host's environment.

Takes environment variables and an address; hands on the proxy's address or "".
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(environment: Mapping[str, str], url: str) -> str:
    """The proxy for `url`, or "" for none.

    >>> proxy_for({"https_proxy": "http://proxy:3128", "no_proxy": ".local"}, "https://pypi.org/simple")
    'http://proxy:3128'
    >>> proxy_for({"https_proxy": "http://proxy:3128", "no_proxy": ".local"}, "https://box.local/")
    ''
    """
    parts = urlsplit(url)
    name = (parts.hostname or "").lower()
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    for pattern in (item.strip().lower().partition(":")[0].lstrip("*") for item in exempt.split(",")):
        if pattern and (name == pattern.lstrip(".") or name.endswith("." + pattern.lstrip("."))):
            return ""
    if exempt.strip() == "*" or name in {"localhost", "127.0.0.1", "::1"}:
        return ""
    for variable in (f"{parts.scheme}_proxy", "all_proxy"):
        # HTTP_PROXY in upper case can be set by a request in CGI; curl reads only the lower form, and so do we
        upper = "" if variable == "http_proxy" else environment.get(variable.upper(), "")
        if value := environment.get(variable) or upper:
            return value if "://" in value else f"http://{value}"
    return ""
