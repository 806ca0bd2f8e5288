"""A watcher that nobody waits for: a user service of systemd where there is one, else a process of its own.

Takes a model on a target, hands on nothing; returns when the watcher has taken the rollout.

Rules: it is no container, because the Docker socket inside one is root on the host; it is told to go on after its
death by systemd, and without systemd whoever finds it dead can start it again (`intermodal watch`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.rooms.deploy.writer import lock_path, who_writes

_TAKES_S = 30.0
_POLL_S = 0.05


def leave(target: str, model: str, state: Path, host: Host, events: Events) -> None:
    """Start a watcher for a model's rollout.

    Raises:
        EngineError: it did not begin.
    """
    command = [sys.executable, "-m", "intermodal", "watch", model, "--to", target]
    log = lock_path(state, target, model).with_suffix(".log")
    started = _as_service(command, model, host) or _as_process(command, log, host)
    deadline_s = time.monotonic() + _TAKES_S
    while not who_writes(state, target, model):
        if time.monotonic() > deadline_s:
            said = log.read_text("utf-8", "replace").splitlines()[-5:] if log.exists() else []
            raise EngineError(
                "the watcher did not begin", found=[started, *said], next=f"watch it here: intermodal watch {model}"
            )
        time.sleep(_POLL_S)
    events.notice(f"watched by {started}; intermodal status {model} shows how far it is")


def _as_service(command: list[str], model: str, host: Host) -> str:
    """Start it below systemd; "" where that cannot be done."""
    program = shutil.which("systemd-run", path=host.environment.get("PATH"))
    if program is None or not host.environment.get("XDG_RUNTIME_DIR"):
        return ""
    unit = f"intermodal-{model}-{os.getpid()}"
    passed = [f"--setenv={name}" for name in host.environment if name not in ("PWD", "OLDPWD", "_")]
    properties = ("Restart=on-failure", "RestartSec=2", "SuccessExitStatus=1", "StartLimitBurst=20")  # 1: went back
    options = ["--user", "--collect", f"--unit={unit}", *(f"--property={one}" for one in properties)]
    done = subprocess.run(
        [program, *options, *passed, "--", *command], env=dict(host.environment), capture_output=True, check=False
    )
    return f"the user service {unit}" if done.returncode == 0 else ""


def _as_process(command: list[str], log: Path, host: Host) -> str:
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(host.environment), cwd="/",
            start_new_session=True,
        )  # fmt: skip
    process.returncode = 0  # it is not ours to wait for
    return f"process {process.pid}, which writes to {log}"
