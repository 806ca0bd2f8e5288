"""System calls of a command and of everything it starts, seen and answered from outside: the seam faults go through.

Takes a command and a `Fault`; hands on what the command did. A seccomp filter with a listener stops each process just
before it writes, creates, renames, links, removes, flushes, locks, connects or starts a program; we let it go on, or
answer with an error number, or kill. Nothing of the command is replaced or told; no privilege and no tool is needed.

Only what happens below the world's folder counts, and starting programs and connecting anywhere. Threads make the order
differ between runs, so a place is named by its class ("intermodal write store/tmp/#.tmp") and its number within it.

Spec: Linux Documentation/userspace-api/seccomp_filter, "Userspace Notification"; seccomp(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101
_CONTINUE = 1
_AT_CWD = -100
_CREATES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

# name -> (number on x86-64, number on arm64, how its target is named, index of that argument)
CALLS: Mapping[str, tuple[int, int, str, int]] = {
    "write": (1, 64, "fd", 0), "pwrite": (18, 68, "fd", 0), "writev": (20, 66, "fd", 0),
    "fsync": (74, 82, "fd", 0), "fdatasync": (75, 83, "fd", 0), "ftruncate": (77, 46, "fd", 0),
    "fchmod": (91, 52, "fd", 0), "flock": (73, 32, "fd", 0), "fallocate": (285, 47, "fd", 0),
    "open": (2, -1, "path", 0), "openat": (257, 56, "at", 0), "mkdir": (83, -1, "path", 0),
    "mkdirat": (258, 34, "at", 0), "rename": (82, -1, "path", 1), "renameat": (264, 38, "at", 2),
    "renameat2": (316, 276, "at", 2), "link": (86, -1, "path", 1), "linkat": (265, 37, "at", 2),
    "symlink": (88, -1, "path", 1), "symlinkat": (266, 36, "at", 1), "unlink": (87, -1, "path", 0),
    "unlinkat": (263, 35, "at", 0), "rmdir": (84, -1, "path", 0), "chmod": (90, -1, "path", 0),
    "fchmodat": (268, 53, "at", 0), "vfork": (58, -1, "none", 0), "execve": (59, 221, "path", 0),
    "connect": (42, 203, "none", 0),
}  # fmt: skip
_ARM = platform.machine() == "aarch64"
_BY_NUMBER = {row[_ARM]: (name, row[2], row[3]) for name, row in CALLS.items() if row[_ARM] >= 0}
_WHO = re.compile(r"^(?:python|layer|compile|ThreadPool).*")
_UV = ("uv", "main2", "tokio-rt-worker")  # its threads have names of their own
ERRORS: Mapping[str, tuple[str, ...]] = {  # what each call may answer in earnest
    "write": ("ENOSPC", "EIO", "EDQUOT"), "pwrite": ("ENOSPC", "EIO"), "writev": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC"), "fdatasync": ("EIO",), "ftruncate": ("EIO",), "fallocate": ("ENOSPC",),
    "fchmod": ("EPERM", "EIO"), "flock": ("ENOLCK",), "open": ("ENOSPC", "EACCES", "EMFILE", "EROFS"),
    "openat": ("ENOSPC", "EACCES", "EMFILE", "EROFS"), "mkdir": ("ENOSPC", "EACCES"), "mkdirat": ("ENOSPC",),
    "rename": ("ENOSPC", "EIO", "EACCES"), "renameat": ("EIO",), "renameat2": ("EIO",), "link": ("EMLINK", "ENOSPC"),
    "linkat": ("ENOSPC",), "symlink": ("ENOSPC",), "symlinkat": ("ENOSPC",), "unlink": ("EIO",),
    "unlinkat": ("EIO",), "rmdir": ("EIO",), "chmod": ("EPERM",), "fchmodat": ("EPERM",),
    "vfork": ("EAGAIN", "ENOMEM"), "execve": ("ENOMEM", "EACCES"), "connect": ("ENETUNREACH", "ECONNREFUSED"),
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What happens at one place: `act` is an error's name or who is killed.

    "kill": the command; "kill-all": all that it started, too; "kill-it": the process that came to the place.
    """

    place: str  # class of the event
    number: int  # which one of its class, from 1
    act: str


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    places: Counter[str] = field(default_factory=Counter)
    struck: bool = False  # the fault's place was reached


def run(
    command: Sequence[str], *, root: Path, cwd: Path, env: Mapping[str, str], fault: Fault | None = None,
    largest_bytes: int = 0, limit_s: float = 120.0,
) -> Outcome:  # fmt: skip
    """Run a command to its end, and that of everything it started, under a fault.

    Args:
        command: program and arguments.
        root: folder whose files count.
        cwd: where it starts.
        env: its variables.
        fault: what happens to it; None only notes the places.
        largest_bytes: no file may grow beyond; 0 sets no limit.
        limit_s: after that it is killed, and a TimeoutError raised.
    """
    ours, theirs = socket.socketpair()
    with (
        tempfile.TemporaryFile(dir=root.parent) as out,
        tempfile.TemporaryFile(dir=root.parent) as err,
    ):
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(theirs.fileno()), str(largest_bytes), *command],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, env=dict(env), pass_fds=[theirs.fileno()],
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        with ours:
            _, handles, _, _ = socket.recv_fds(ours, 1, 1)
        if not handles:
            process.wait()
            err.seek(0)
            raise RuntimeError(f"no system call listener here: {err.read().decode()}")
        watch = _Watch(handles[0], process, root, fault)
        try:
            watch.serve(time.monotonic() + limit_s)
        finally:
            os.close(handles[0])
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        told = []
        for stream in (out, err):
            stream.seek(0)
            told.append(stream.read().decode("utf-8", "replace"))
    return Outcome(code, told[0], told[1], watch.places, watch.struck)


class _Watch:
    def __init__(self, listener: int, process: subprocess.Popen[bytes], root: Path, fault: Fault | None) -> None:
        self._listener = listener
        self._process = process
        self._root = f"{root}/"
        self._fault = fault
        self._started = False
        self.places: Counter[str] = Counter()
        self.struck = False

    def serve(self, deadline_s: float) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while True:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"it hangs: {self._process.args!r}")
            for _, event in poll.poll(200):
                if event & select.POLLIN:
                    self._one()
                elif event & (select.POLLHUP | select.POLLERR):
                    return
            self._process.poll()

    def _one(self) -> None:
        notice = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, notice)
        except (FileNotFoundError, InterruptedError):
            return  # it died before we looked
        identity, pid, _, number, _, _, *arguments = struct.unpack("<QIIiIQ6Q", notice)
        answer = 0
        place = self._place(number, pid, arguments)
        if place:
            self.places[place] += 1
            fault = self._fault
            if fault is not None and not self.struck and fault.place == place and self.places[place] == fault.number:
                self.struck = True
                answer = self._strike(fault.act, pid)
        flags = 0 if answer else _CONTINUE
        with suppress(FileNotFoundError):  # it was killed meanwhile
            fcntl.ioctl(self._listener, _ANSWER, struct.pack("<QqiI", identity, 0, -answer, flags))

    def _strike(self, act: str, pid: int) -> int:
        if act == "kill-it":
            status = Path(f"/proc/{pid}/status").read_text()
            os.kill(int(status.partition("Tgid:")[2].split()[0]), signal.SIGKILL)
            return 0
        if act == "kill":
            self._process.kill()
            return 0
        if act == "kill-all":
            os.killpg(self._process.pid, signal.SIGKILL)
            return 0
        import errno

        return int(getattr(errno, act))

    def _place(self, number: int, pid: int, arguments: list[int]) -> str:
        name, kind, index = _BY_NUMBER[number]
        try:
            who = _WHO.sub("intermodal", Path(f"/proc/{pid}/comm").read_text().strip())
            who = "uv" if who in _UV else who
            if kind == "none":
                return f"{who} {name}" if name != "connect" or self._internet(pid, arguments) else ""
            if name == "execve":
                if not self._started:
                    self._started = True
                    return ""  # the command itself
                return f"{who} {name} {self._text(pid, arguments[index]).rpartition('/')[2]}"
            path = self._path(pid, kind, index, arguments)
        except OSError:
            return ""
        if not path.startswith(self._root):
            return ""
        return f"{who} {name} {self._short(path)}"

    def _internet(self, pid: int, arguments: list[int]) -> bool:
        return struct.unpack("<H", self._memory(pid, arguments[1], 2))[0] in (socket.AF_INET, socket.AF_INET6)

    def _path(self, pid: int, kind: str, index: int, arguments: list[int]) -> str:
        if kind == "fd":
            return os.readlink(f"/proc/{pid}/fd/{arguments[index]}")
        text = self._text(pid, arguments[index + 1] if kind == "at" else arguments[index])
        if text.startswith("/"):
            return text
        folder = ctypes.c_int(arguments[index] & 0xFFFFFFFF).value if kind == "at" else _AT_CWD
        base = os.readlink(f"/proc/{pid}/cwd" if folder == _AT_CWD else f"/proc/{pid}/fd/{folder}")
        return f"{base}/{text}" if text else base

    def _text(self, pid: int, address: int) -> str:
        return os.fsdecode(self._memory(pid, address, 4096).split(b"\0", 1)[0])

    @staticmethod
    def _memory(pid: int, address: int, size: int) -> bytes:
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            memory.seek(address)
            page = 4096 - address % 4096
            data = memory.read(min(size, page))
            return data if b"\0" in data or size <= page else data + memory.read(size - page)

    def _short(self, path: str) -> str:
        path = re.sub(r"[0-9a-f]{16,}", "#", path[len(self._root) :])
        if path.startswith("cache/uv/"):
            return "cache/uv"
        if path.startswith(("cache/intermodal/rootfs/#.partial", "cache/intermodal/merged/#.partial")):
            return path[: path.index(".partial") + 8] + "/…"
        path = re.sub(r"(files/#/)[^.][^/]*?((?:\.part)?)$", r"\1file\2", path)
        path = re.sub(r"/\.tmp\w{6}$", "/.tmp…", path)
        return re.sub(r"\d{3,}", "0", re.sub(r"seen-[a-z-]+", "seen", path))


def _program() -> bytes:
    """The filter: which calls are stopped; classic BPF, skips counted by hand in each block."""

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    load, equal, above, bits, leave = 0x20, 0x15, 0x25, 0x45, 0x06
    steps = [step(load, 4), step(equal, 0xC00000B7 if _ARM else 0xC000003E, 1, 0), step(leave, ALLOW), step(load, 0)]
    for number, (name, _, _) in _BY_NUMBER.items():
        if name in ("open", "openat"):
            flags = 24 if name == "open" else 32
            steps += [step(equal, number, 0, 4), step(load, flags), step(bits, _CREATES, 0, 1), step(leave, NOTIFY),
                      step(leave, ALLOW)]  # fmt: skip
        elif name in ("write", "writev"):
            steps += [step(equal, number, 0, 4), step(load, 16), step(above, 2, 0, 1), step(leave, NOTIFY),
                      step(leave, ALLOW)]  # fmt: skip
        else:
            steps += [step(equal, number, 0, 1), step(leave, NOTIFY)]
    return b"".join([*steps, step(leave, ALLOW)])


def _launch(handle: int, largest_bytes: int, command: list[str]) -> None:
    """Put ourselves under the filter, hand its listener out, and become the command."""
    if largest_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, largest_bytes))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _program()
    steps = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("<H6xQ", len(program) // 8, ctypes.addressof(steps)), 16)
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs")
    listener = libc.syscall(277 if _ARM else 317, 1, 8, header)  # SECCOMP_SET_MODE_FILTER, FLAG_NEW_LISTENER
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    with socket.socket(fileno=handle) as out:
        socket.send_fds(out, [b"x"], [listener])
    os.execv(command[0], command)


if __name__ == "__main__":
    _launch(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
