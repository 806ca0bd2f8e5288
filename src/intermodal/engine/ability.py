"""What this host permits: overlays, at least user namespaces, or neither; tried out, not guessed.

Takes the host, hands on an `Ability`. Distributions refuse in many ways (a sysctl, AppArmor, seccomp of the container
we run in), so the only honest question is to start a sandbox. The answer "overlay" is remembered for this boot; a
refusal is asked again each time, because the next thing a person does is to lift it.

`INTERMODAL_SANDBOX` = overlay, hardlink or loader takes the choice away from us, for tests and for odd hosts.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import get_args

from msgspec import Struct

from intermodal.engine import bwrap
from intermodal.engine.rootfs import Way
from intermodal.errors import EngineError, InputError
from intermodal.host import Host
from intermodal.host.files import replace_file
from intermodal.host.held import scratch
from intermodal.oci.folder_once import boot_id

VARIABLE = "INTERMODAL_SANDBOX"
ALLOW_USERNS = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or use --engine docker"


class Ability(Struct, frozen=True):
    """The best way that works here, and why better ones do not."""

    way: Way
    why: str = ""


def ability(host: Host) -> Ability:
    """The best way that works on this host.

    Raises:
        EngineError: not Linux.
        InputError: `INTERMODAL_SANDBOX` has an unknown value.
    """
    if host.system != "linux":
        raise EngineError("the sandbox engine needs Linux", found=host.system, next="use --engine docker")
    forced = host.environment.get(VARIABLE, "")
    if forced:
        if forced not in get_args(Way):
            raise InputError(f"{VARIABLE} is {forced!r}", found=f"one of {', '.join(get_args(Way))} is expected")
        return Ability(forced, f"{VARIABLE}={forced}")  # type: ignore[arg-type]
    remembered = host.cache_dir / "sandbox.json"
    key = {"boot": boot_id(), "bwrap": str(bwrap.binary()), "uid": host.uid, "cache": str(host.cache_dir)}
    try:
        if json.loads(remembered.read_bytes()) == key:
            return Ability("overlay")
    except (OSError, ValueError):
        pass
    found = _try_out(host)
    if found.way == "overlay":
        _remember(remembered, key)
    return found


def _remember(path: Path, key: dict[str, object]) -> None:
    """Note that overlays work; a note that cannot be written is only a try-out more next time."""
    try:
        replace_file(path, json.dumps(key).encode(), path.parent / "tmp")
    except OSError:
        return


def _try_out(host: Host) -> Ability:
    """Start the smallest sandbox, first over an overlay on the cache's disk, then without."""
    try:
        with scratch(host.temporary_dir) as folder:
            for part in ("lower", "upper", "over"):
                (folder / part).mkdir()
            overlay = ["--overlay-src", f"{folder}/lower", "--overlay-src", f"{folder}/upper", "--ro-overlay"]
            no_overlay = _refusal([*overlay, f"{folder}/over"])
    except OSError as error:
        raise EngineError("cannot use the cache folder", found=f"{host.cache_dir}: {error.strerror}") from error
    if not no_overlay:
        return Ability("overlay")
    no_namespaces = _refusal([])
    if not no_namespaces:
        return Ability("hardlink", f"this host refuses overlays to ordinary users ({no_overlay})")
    return Ability("loader", f"this host refuses user namespaces ({no_namespaces})")


def _refusal(options: list[str]) -> str:
    """What bwrap says against running itself with `options`; "" when it ran."""
    program = str(bwrap.binary())
    base = ["--unshare-user", "--unshare-pid", "--unshare-net", "--disable-userns", "--ro-bind", "/", "/"]
    mounts = ["--proc", "/proc", "--dev", "/dev"]
    try:
        done = subprocess.run(
            [program, *base, *mounts, *options, "--", program, "--version"],
            capture_output=True,
            env={},
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("bwrap: ")[:300] if lines else f"bwrap ended with status {done.returncode}"
