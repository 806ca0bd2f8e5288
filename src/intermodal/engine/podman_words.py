"""What is said to podman and what it says back: options from a `Spec`, errors from its last words.

Takes and hands on plain values; runs nothing.
"""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path

from intermodal.engine.driver import OPEN_FILES, Spec
from intermodal.errors import EngineError
from intermodal_server.contract import GRPC_PORT, HTTP_PORT

_SECOND_NS = 1_000_000_000
_HEALTH = (("Interval", "--health-interval"), ("Timeout", "--health-timeout"), ("StartPeriod", "--health-start-period"))
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
# What podman says, and what the person can do about it.
_IDS = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, who needs a name in /etc/passwd"
_REMEDIES = (
    ("cannot find uid/gid for user", _IDS),
    ("no subuid ranges found", _IDS),
    ("unable to setup user", _IDS),  # runc: user 65532 of the image is not among this user's ids
    ("setresuid", _IDS),  # crun, the same
    ("newuidmap", f"sudo apt install uidmap; {_IDS}"),
    ("cannot clone", "allow user namespaces: sudo sysctl user.max_user_namespaces=15000"),
    ("cannot re-exec process", f"allow user namespaces, and: {_IDS}"),
    ("/dev/net/tun", "a network for rootless podman needs /dev/net/tun, readable by this user; or leave it cut"),
    ("xdg_runtime_dir", "log in with a session of your own (loginctl enable-linger USER), or set XDG_RUNTIME_DIR"),
)


def options(spec: Spec, *, timers: bool) -> list[str]:
    """The arguments of `podman create`: every measure of the policy as podman names it.

    Args:
        spec: the container.
        timers: whether systemd runs, which podman needs to repeat a health check; without it `podman healthcheck run`
            still works.
    """
    policy = spec.policy
    words = ["--pull=never", "--name", spec.name, "--user", policy.user, "--ipc=private"]
    words += [f"--read-only={_word(policy.read_only_root)}", "--read-only-tmpfs=false"]
    words += ["--tmpfs", f"/tmp:rw,nosuid,nodev,exec,mode=1777,size={policy.scratch_bytes}"]  # noqa: S108 - inside
    words += ["--shm-size", f"{policy.scratch_bytes}b", "--pids-limit", str(policy.pids)]
    words += limits()
    words += ["--log-driver", "k8s-file", "--log-opt", "max-size=10m"]
    if policy.drop_capabilities:
        words.append("--cap-drop=ALL")
    if policy.no_new_privileges:
        words.append("--security-opt=no-new-privileges")
    if not policy.seccomp:
        words.append("--security-opt=seccomp=unconfined")
    if policy.memory_bytes is not None:
        words += ["--memory", f"{policy.memory_bytes}b", "--memory-swap", f"{policy.memory_bytes}b"]
    if policy.cpus is not None:
        words += ["--cpus", str(policy.cpus)]
    if not spec.egress:
        words.append("--network=none")
    for port, inside in ((spec.publish, HTTP_PORT), (spec.publish_grpc, GRPC_PORT)):
        if port is not None:
            words += ["--publish", f"127.0.0.1:{port or ''}:{inside}"]
    for target, source in spec.binds.items():
        words += ["--mount", f"type=bind,source={source},target={target}"]
    for flag, table in (("--env", spec.environment), ("--label", spec.labels)):
        words += [word for name, value in table.items() for word in (flag, f"{name}={value}")]
    return words + _health(spec, timers)


def _word(value: bool) -> str:
    return "true" if value else "false"


def _health(spec: Spec, timers: bool) -> list[str]:
    test = spec.healthcheck.get("Test")
    if not isinstance(test, list) or test[:1] != ["CMD"]:
        return []
    words = ["--health-cmd", json.dumps(test)]
    for name, option in _HEALTH:
        value = spec.healthcheck.get(name)
        if isinstance(value, int) and value > 0:
            words += [option, "disable" if name == "Interval" and not timers else f"{value // _SECOND_NS}s"]
    retries = spec.healthcheck.get("Retries")
    return [*words, "--health-retries", str(retries)] if isinstance(retries, int) and retries > 0 else words


def limits() -> list[str]:
    """Limits on open files and processes that this process may set; podman and buildah know both."""
    files = _limit("nofile", resource.RLIMIT_NOFILE, OPEN_FILES)
    return ["--ulimit", files, "--ulimit", _limit("nproc", resource.RLIMIT_NPROC, _most_processes())]


def _limit(name: str, which: int, most: int) -> str:
    """A limit as high as ours permits: raising it further takes a right that podman may not have."""
    hard = resource.getrlimit(which)[1]
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    return f"{name}={value}:{value}"


def _most_processes() -> int:
    """Podman lowers its own limit to the largest process id before it starts anything."""
    try:
        return int(Path("/proc/sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        return 4096


def refusal(said: str) -> EngineError:
    """Podman's last words as an error that says what to change."""
    lines = [line for line in said.splitlines() if line.strip() and "level=warning" not in line]
    lines = [line for line in lines if line.startswith("Error")] or lines
    remedies = [remedy for phrase, remedy in _REMEDIES if phrase in said.lower()]
    return EngineError(
        "podman refused",
        found=[line[:500] for line in lines[-3:]] or "it said nothing",
        next=[*remedies[:1], "or: --engine sandbox"],
    )


def size_bytes(text: str) -> int:
    """A size as podman prints it.

    >>> size_bytes("3.5MiB")
    3670016
    """
    match = re.match(r"\s*([0-9.]+)\s*([a-zA-Z]+)", text)
    return int(float(match[1]) * _UNITS.get(match[2].lower(), 1)) if match else 0
