"""Podman's system call filter, made as strict as ours: its own lets every process make namespaces and mount in them.

Takes podman's profile as installed, hands on one that allows strictly less. Nothing that podman refuses is allowed
here, so a distribution's own changes keep their effect.

Rules, in order:
1. What our own filter (`seccomp.py`) refuses is struck from every list of what is allowed.
2. `clone` is allowed only without namespaces; `clone3`, whose flags a filter cannot read, does not exist.

Spec: OCI runtime-spec 1.1, "Seccomp"; the profile's own form is that of containers/common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intermodal.engine.seccomp import ENOSYS, NAMESPACE_FLAGS, TABLES

# In podman's own order of precedence.
PLACES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
_ALLOW = "SCMP_ACT_ALLOW"
_CLONE = {
    "names": ["clone"],
    "action": _ALLOW,
    "args": [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
}
_CLONE3 = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}


def tightened(profile: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The profile that allows what `profile` allows, less what our own filter refuses on `architecture`."""
    struck = {*TABLES[architecture].denied, "clone", "clone3"}
    rules: list[dict[str, Any]] = []
    for rule in profile["syscalls"]:
        if rule.get("action") == _ALLOW:
            rule = {**rule, "names": [name for name in rule["names"] if name not in struck]}
        if rule["names"]:
            rules.append(rule)
    rules.append(_CLONE)
    if profile.get("defaultErrnoRet") != ENOSYS:  # else it is refused in the same way already
        rules.append(_CLONE3)
    return {**profile, "syscalls": rules}


def write_profile(folder: Path, architecture: str) -> Path | None:
    """A file in `folder` with the tightened profile; None when podman's own cannot be found or read.

    A missing file is no error: the container then has podman's built-in profile, and its hardening says so.
    """
    for place in PLACES:
        try:
            document = tightened(json.loads(place.read_bytes()), architecture)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        path = folder / "seccomp.json"
        path.write_text(json.dumps(document))
        return path
    return None
