"""Processes that outlive whoever starts them, found again by anybody, and never mistaken for another.

Takes a folder; hands on whether its process lives, what it says, and ways to begin and end it.

Rules, in order:
1. A process lives exactly as long as somebody holds the lock of its folder. The starter takes the lock and hands it
   over, so there is no moment in which the process is there and the lock is not.
2. The process writes its own number, after the lock is its; the starter has removed what an earlier one wrote. So a
   number in a locked folder is that of the process that holds the lock.
3. What a process says of itself is one JSON file, replaced in one step.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from intermodal.host import Host
from intermodal.host.files import failure

_KEEPER = "intermodal.rooms.deploy.targets.keeper"
_LOOKS, _LOOK_S = 5, 0.005
_PASSED_ON = ("PATH", "LANG", "TMPDIR", "PYTHONPATH")


class Kept:
    """The process of a folder, there or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def lives(self) -> bool:
        """Whether its process is there."""
        try:
            handle = os.open(self.folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def begin(self, spec: dict[str, Any], host: Host) -> bool:
        """Start a keeper with this specification; False when one is there already.

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = self._taken()
            if handle is None:
                return False
            try:
                for name in ("pid", "status.json"):
                    (self.folder / name).unlink(missing_ok=True)
                replace_file(self.folder / "spec.json", json.dumps(spec).encode())
                self._spawn(handle, host)
            finally:
                os.close(handle)
        except OSError as error:
            missing = Path(error.filename or self.folder)  # the folder may be there, and the interpreter gone
            raise failure("cannot start a process of the target", missing, error) from error
        return True

    def _spawn(self, handle: int, host: Host) -> None:
        environment = {
            name: value
            for name, value in host.environment.items()
            if name in _PASSED_ON or name.startswith(("XDG_", "INTERMODAL_SANDBOX"))
        }
        environment["HOME"] = str(host.home)
        with (self.folder / "keeper.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", _KEEPER, str(self.folder), str(handle)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                pass_fds=[handle],
                start_new_session=True,
            )
        process.returncode = 0  # it is not ours to wait for

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end; does nothing when it is not there, or has not said its number yet."""
        if not self.lives:
            return
        with suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text())
            handle = os.pidfd_open(pid)
            try:
                if self.lives:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    @property
    def spec(self) -> dict[str, Any]:
        """What it was started with; empty when nothing was."""
        return _read(self.folder / "spec.json")

    @property
    def status(self) -> dict[str, Any]:
        """What it says of itself; empty while it says nothing or is not there."""
        return _read(self.folder / "status.json")

    def _taken(self) -> int | None:
        """The lock of the folder, taken now; None when somebody has it for longer than a look takes."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(_LOOKS):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                time.sleep(_LOOK_S)
        os.close(handle)
        return None


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_bytes(content)
    temporary.rename(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
