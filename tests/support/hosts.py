"""Machines for tests: a `Host` with folders of its own and nothing configured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from intermodal.host import Host, read

NOW_S = 1_795_000_000.0  # 2026-11-18; tests that need another clock turn it by hand


def empty_host(folder: Path, variables: Mapping[str, str] | None = None, *, now_s: float = NOW_S) -> Host:
    """A machine without any pip, uv or apt configuration, whose home and caches lie in `folder`."""
    home = folder / "home"
    for part in (home, folder / "cache", folder / "xdg", folder / "etc" / "apt"):
        part.mkdir(parents=True, exist_ok=True)
    real = read()
    environment = {
        "PATH": real.environment.get("PATH", ""),
        "HOME": str(home),
        "PIP_CONFIG_FILE": "/dev/null",
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CONFIG_DIRS": str(folder / "xdg"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_DATA_HOME": str(folder / "data"),
        "INTERMODAL_ETC": str(folder / "etc"),
        "UV_CACHE_DIR": str(folder / "cache" / "uv"),
        **(variables or {}),
    }
    return Host(environment, home, "linux", real.architecture, real.cores, real.uid, now_s)
