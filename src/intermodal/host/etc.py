"""Where this machine's shared settings lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def etc(environment: Mapping[str, str]) -> Path:
    """`/etc`, or the folder that `INTERMODAL_ETC` names instead, for tests and odd machines."""
    return Path(environment.get("INTERMODAL_ETC") or "/etc")
