"""Watching one call of a reader: what it may not do, found while it does it.

Takes a folder that may be written and a function; hands on nothing, or a `Violation`.

Rules, in order:
1. Nothing is written outside the folder, whatever links lie in it.
2. Nothing is imported, compiled, unmarshalled or executed; no process, no socket, no foreign library.
3. Memory does not grow by more than `MEMORY_BYTES`, and the call takes at most `CPU_S` seconds of this process.

Python's audit events tell 1 and 2. A hook cannot be removed again, so there is one per process, asleep between calls.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

MEMORY_BYTES = 512 << 20
CPU_S = 20.0
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {  # event -> places of the paths it writes, and of the descriptors they are relative to
    "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3)), "os.link": ((0, 2), (1, 3)), "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.chmod": ((0, 2),), "os.chown": ((0, 3),), "os.utime": ((0, 3),),
    "os.truncate": ((0, 9),), "os.setxattr": ((0, 9),), "shutil.rmtree": ((0, 9),),
}  # fmt: skip
_NEVER = (
    "compile", "exec", "marshal.load", "code.__new__", "function.__new__", "pickle.find_class", "cpython.run_",
    "subprocess.", "os.system", "os.exec", "os.fork", "os.spawn", "os.posix_spawn", "os.kill", "os.putenv", "os.chdir",
    "os.chroot", "socket.", "ctypes.", "urllib.", "ftplib.", "webbrowser.", "sqlite3.", "setopencodehook",
    "shutil.copy", "shutil.move", "shutil.chown", "shutil.unpack", "builtins.input", "builtins.breakpoint",
)  # fmt: skip
_LATE = ("intermodal", "encodings")  # may be imported by the first call that needs it


class Violation(Exception):
    """A reader did what none may do."""


class _Hang(BaseException):
    """Raised by the timer; no reader catches it."""


class Guard:
    """The one watch of this process."""

    def __init__(self) -> None:
        self._home = ""
        self._seen: list[str] = []
        self._importing = 0
        self._installed = False

    @contextmanager
    def watching(self, home: Path) -> Iterator[None]:
        """Watch for the length of a `with` block; only `home` may be written.

        Raises:
            Violation: after the block, whether it returned or raised.
        """
        if not self._installed:
            sys.addaudithook(self._hook)
            signal.signal(signal.SIGVTALRM, _on_timer)
            self._installed = True
        _reset_peak()
        before = _peak_bytes()
        self._seen = []
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
        self._home = f"{os.path.realpath(home)}/"
        try:
            yield
        except _Hang:
            self._seen.append(f"took more than {CPU_S:.0f} s of CPU")
        except MemoryError:
            self._seen.append("asked for more memory than there is")
        finally:
            self._home = ""
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            grown = _peak_bytes() - before
            if grown > MEMORY_BYTES:
                self._seen.append(f"grew by {grown >> 20} MiB")
            if self._seen:
                raise Violation("; ".join(self._seen[:5]))

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        home = self._home
        if not home:
            return
        self._home = ""  # what this hook does itself is not judged
        try:
            fault = self._fault(event, arguments, home)
            if fault:
                self._seen.append(fault)
        finally:
            self._home = home

    def _fault(self, event: str, arguments: tuple[Any, ...], home: str) -> str:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & _WRITING) if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
            return f"opened {path!r} for writing" if writes and not _inside(path, home) else ""
        if event in _PATHS:
            written = [(arguments[at], (*arguments, *[-1] * 10)[base]) for at, base in _PATHS[event]]
            outside = [path for path, base in written if not _inside(path, home, base)]
            return f"{event} {outside[0]!r}" if outside else ""
        if event == "import":
            return "" if str(arguments[0]).startswith(_LATE) else f"imported {arguments[0]}"
        if event.startswith(_NEVER):
            return "" if _is_own_import() else f"{event} {str(arguments)[:100]}"
        return ""


def limit_memory() -> None:
    """Let this process have little more memory than it has, so that a bomb is a `MemoryError` and no dead machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 3 * MEMORY_BYTES, resource.RLIM_INFINITY))


def _is_own_import() -> bool:
    """Whether the event comes from importing a module of ours, which Python compiles and executes."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _inside(path: object, home: str, base: object = -1) -> bool:
    if isinstance(path, int):
        return True  # a descriptor that was opened before, and judged then
    root = os.readlink(f"/proc/self/fd/{base}") if isinstance(base, int) and base >= 0 else ""
    folder, name = os.path.split(os.path.join(root, os.fsdecode(path)))  # type: ignore[arg-type]
    return name not in ("", "..") and f"{os.path.realpath(folder)}/{name}".startswith(home)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The most memory this process had since the last reset; `ru_maxrss` would be that of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:", 1)[1].split(None, 1)[0]) << 10


def _on_timer(*_: object) -> None:
    raise _Hang


GUARD = Guard()
Reader = Callable[[bytes, Path], bool]
