"""Which walls a container really has: looked at from outside, tried from inside.

Takes the process id of a running container and a function that runs a probe behind the same walls; hands on
`Hardening`. A measure counts only when every look at it agrees:

| measure | from outside, on the real process | from inside, by a probe |
|---|---|---|
| user | its uid map has one entry, not 0 | runs as that user |
| capabilities | all five sets are empty | - |
| no_new_privs | `NoNewPrivs: 1` | - |
| seccomp | `Seccomp: 2` | a call that the filter forbids is refused |
| read_only_root | every mount but the scratch ones is read-only | writing fails everywhere else |
| no_egress | another network namespace | no route out |
| no_userns | - | making one fails |

What could not be found out is absent, with a note.
"""

# ruff: noqa: S108 - these folders are the container's
from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from intermodal.engine.interface import Hardening

MEASURES = ("user", "capabilities", "no_new_privs", "seccomp", "read_only_root", "no_egress", "no_userns")
SOCKET_FOLDER = "/run/intermodal"
_SCRATCH = re.compile(r"/tmp|/dev/shm|/run/intermodal|/dev/pts|/dev/(null|zero|full|random|urandom|tty|console)")

# Runs with `python -I -S -c` inside; standard library only, Python 3.9 syntax. Prints one JSON document.
PROBE = r"""
import errno, json, os, socket
found = {"uid": os.getuid(), "gid": os.getgid(), "written": []}
places = "/ /etc /usr /usr/bin /opt /app /model /var /run /dev /home /proc/sys/kernel".split()
for place in places:
    name = os.path.join(place, ".intermodal-probe")
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(name)
        found["written"].append(place)
    except OSError:
        pass
for name in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd"):
    try:
        os.close(os.open(name, os.O_WRONLY))
        found["written"].append(name)
    except OSError:
        pass
found["connect"] = {}
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.connect((address, 9))
        found["connect"][address] = "connected"
    except OSError as error:
        found["connect"][address] = errno.errorcode.get(error.errno, str(error))
try:
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def call(function, *arguments):
        ctypes.set_errno(0)
        result = function(*arguments)
        return "" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")
    found["keyctl"] = call(libc.syscall, KEYCTL, 0, -3, 0)
    found["unshare"] = call(libc.unshare, 0x10000000)
except (ImportError, OSError, AttributeError) as error:
    found["no_ctypes"] = str(error)
print(json.dumps(found))
"""
_KEYCTL = {"amd64": 250, "arm64": 219}


def probe_script(architecture: str) -> str:
    """The probe for `architecture`."""
    return PROBE.replace("KEYCTL", str(_KEYCTL.get(architecture, 250)))


def prove(pid: int, run_probe: Callable[[], bytes], *, network: bool) -> Hardening:
    """What the container of process `pid` has.

    Args:
        pid: its first process, as seen from this host.
        run_probe: runs the probe behind the same walls; its output. What it raises becomes a note.
        network: the caller asked for a network: then it is no fault that it is there.
    """
    notes: list[str] = []
    outside = _outside(pid, notes)
    inside = _inside(run_probe, notes)
    measures = {name: outside.get(name, True) and inside.get(name, True) for name in MEASURES}
    if network:
        measures["no_egress"] = False
        notes.append("the network is open, as asked for")
    missing = [name for name in MEASURES if not measures[name]]
    return Hardening("partial" if missing else "full", measures, tuple(notes))


def _outside(pid: int, notes: list[str]) -> dict[str, bool]:
    """What /proc says about the real process."""
    try:
        status = read_status(pid)
        users = [line.split() for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()]
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        network = os.readlink(f"/proc/{pid}/ns/net")  # noqa: PTH115 - it is no path
        ours = os.readlink("/proc/self/ns/net")  # noqa: PTH115
    except (OSError, ValueError) as error:
        notes.append(f"the process could not be looked at: {error}")
        return dict.fromkeys(MEASURES, False)
    writable = sorted(
        {place for place, options in map(_mount, mounts) if "rw" in options and not _SCRATCH.fullmatch(place)}
    )
    if writable:
        notes.append(f"writable: {', '.join(writable[:5])}")
    return {
        "user": len(users) == 1 and users[0][0] != "0" and users[0][2] == "1",
        "capabilities": no_capabilities(status),
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "seccomp": status.get("Seccomp") == "2",
        "read_only_root": not writable,
        "no_egress": network != ours,
    }


def _mount(line: str) -> tuple[str, list[str]]:
    """Place and options of one line of mountinfo."""
    fields = line.split()
    return fields[4], fields[5].split(",")


def read_status(pid: int) -> dict[str, str]:
    """`/proc/<pid>/status` by field."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def no_capabilities(status: Mapping[str, str]) -> bool:
    """Whether all five sets of a status are empty."""
    return all(int(status.get(name, "1"), 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))


def _inside(run_probe: Callable[[], bytes], notes: list[str]) -> dict[str, bool]:
    """What the probe could and could not do."""
    tried = ("user", "seccomp", "read_only_root", "no_egress", "no_userns")
    try:
        found = json.loads(run_probe())
        answers: Sequence[str] = list(found["connect"].values())
        written = found["written"]
        result = {
            "user": found["uid"] != 0 and found["gid"] != 0,
            "read_only_root": not written,
            "no_egress": all(answer in ("ENETUNREACH", "EAFNOSUPPORT", "EADDRNOTAVAIL") for answer in answers),
        }
        if written:
            notes.append(f"the probe could write to {', '.join(written)}")
        if "no_ctypes" in found:
            notes.append("seccomp and user namespaces could not be tried: the image's Python has no ctypes")
            return {**result, "seccomp": False, "no_userns": False}
        return {
            **result,
            "seccomp": found["keyctl"] == "EPERM",
            "no_userns": found["unshare"] in ("EPERM", "ENOSPC"),
        }
    except Exception as error:
        notes.append(f"the probe inside the container failed: {error or type(error).__name__}")
        return dict.fromkeys(tried, False)
