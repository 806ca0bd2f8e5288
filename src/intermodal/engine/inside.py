"""Which measures a container of docker or podman really has, found out by its own Python inside it.

Takes the output of `script`, run in the container by the engine's `exec`; hands on `Hardening`. An engine may run its
containers in a virtual machine or as another user, so nothing here looks from outside; the server's own process is
read from within (`/proc/1`), because what an `exec` gets may differ from what the server got.

| measure | the server's process (`/proc/1/status`) | tried |
|---|---|---|
| user | its four user and group ids are ours | the probe's own ids |
| capabilities | all five sets are empty | - |
| no_new_privs | `NoNewPrivs: 1` | - |
| seccomp | `Seccomp: 2` | - |
| read_only_root | - | `/` is mounted read-only, and no other mount but the scratch ones can be written |
| no_egress | - | no route out |
| no_userns | - | making one fails |
"""

# ruff: noqa: S108 - these folders are the container's
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from intermodal.engine.hardening import MEASURES, no_capabilities, probe_script
from intermodal.engine.interface import Hardening

# The engines mount these themselves; all of them live in memory and end with the container.
_SCRATCH = ("/tmp", "/dev/shm", "/dev/mqueue", "/dev/pts", "/run/intermodal")
_FIRST = """
import json, os
status, mounts = open("/proc/1/status").read(), open("/proc/self/mountinfo").read()
writable = []
for line in mounts.splitlines():
    fields = line.split()
    if os.path.isdir(fields[4]) and os.access(fields[4], os.W_OK):
        writable.append(fields[4])
root = bool(os.statvfs("/").f_flag & os.ST_RDONLY)
print(json.dumps({"status": status, "writable": writable, "root_read_only": root}))
"""
_NO_ROUTE = ("ENETUNREACH", "EAFNOSUPPORT", "EADDRNOTAVAIL")


def script(architecture: str) -> str:
    """What to run with the image's `python -I -S -c`; prints two JSON documents, one a line."""
    # looked at first: the probe ends in a user namespace of its own where making one is allowed
    return _FIRST + probe_script(architecture)


def judge(said: str, uid: int, known: Sequence[str] = ()) -> Hardening:
    """The measures that `said`, the output of the script, proves.

    Args:
        said: what it printed.
        uid: the user and group that the container should run as.
        known: notes on what is absent for a reason that is known already.
    """
    try:
        seen, tried = (json.loads(line) for line in said.strip().splitlines()[-2:])
        lines = (line.partition(":") for line in str(seen["status"]).splitlines())
        status = {name: value.strip() for name, _, value in lines}
        measures, notes = _measures(tried, seen, status, uid)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return unproven(f"the probe inside the container failed: {error!r}")
    complete = all(measures[name] for name in MEASURES)
    return Hardening("full" if complete else "partial", measures, (*known, *notes))


def unproven(why: str) -> Hardening:
    """What can be claimed of a container that could not be looked into: nothing."""
    return Hardening("partial", dict.fromkeys(MEASURES, False), (why,))


def _measures(
    tried: Mapping[str, Any], seen: Mapping[str, Any], status: Mapping[str, str], uid: int
) -> tuple[dict[str, bool], list[str]]:
    notes = []
    ids = {*status["Uid"].split(), *status["Gid"].split(), str(tried["uid"]), str(tried["gid"])}
    writable = [*tried["written"], *(place for place in seen["writable"] if place not in _SCRATCH)]
    refused = tried.get("unshare") in ("EPERM", "ENOSPC", "ENOSYS")
    if ids != {str(uid)}:
        notes.append(f"it runs as {', '.join(sorted(ids))}, not as {uid}")
    if not seen["root_read_only"]:
        notes.append("the root is writable")
    if writable:
        notes.append(f"writable: {', '.join(writable[:5])}")
    if "no_ctypes" in tried:
        notes.append("user namespaces could not be tried: the image's Python has no ctypes")
    elif not refused:
        notes.append("a user namespace can be made inside, which opens more of the kernel")
    measures = {
        "user": ids == {str(uid)},
        "capabilities": no_capabilities(status),
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "seccomp": status.get("Seccomp") == "2",
        "read_only_root": bool(seen["root_read_only"]) and not writable,
        "no_egress": all(answer in _NO_ROUTE for answer in tried["connect"].values()),
        "no_userns": refused,
    }
    return measures, notes
