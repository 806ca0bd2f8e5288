"""A machine made by hand, for tests that need a host and nothing of this one."""

from __future__ import annotations

from pathlib import Path

from intermodal.host import Host


def machine(home: Path, **environment: str) -> Host:
    """A Linux x86-64 host whose home is `home` and whose environment holds only what is given."""
    return Host(environment, home, "linux", "amd64", 2, 1000, 1_700_000_000.0)
