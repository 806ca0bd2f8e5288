"""The last resort: run an image's Python through the image's own dynamic loader, without any isolation.

Takes a merged root and the image's command; hands on a command for this host. For hosts that refuse user namespaces
(many CI containers). What runs is the image's interpreter, libraries and packages, so predictions are those of the
image; but it runs as the caller, sees the caller's files, and is labelled `isolation: none`.

Two walls need no namespace and are put up all the same: no new privileges, and the system call filter, which here
also refuses internet sockets when the network shall be cut. Unix sockets of this host stay reachable, therefore
`no_egress` is never claimed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from intermodal.engine.hardening import MEASURES, no_capabilities, read_status
from intermodal.engine.interface import Hardening
from intermodal.engine.seccomp import filter_program
from intermodal.errors import EngineError
from intermodal_server.contract import ENV_PYTHON, ENV_ROOT

_MAX_LINKS = 40
_LIBRARY_FOLDERS = ("usr/local/lib", "usr/lib/{triplet}", "lib/{triplet}", "usr/lib64", "lib64", "usr/lib", "lib")
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2


class Command(Struct, frozen=True):
    """What to start on this host."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


def command(
    root: Path,
    argv: Sequence[str],
    folder: str,
    architecture: str,
    *,
    environment: Mapping[str, str],
    ours: Mapping[str, str],
    scratch: Path,
) -> Command:
    """The image's command, rewritten so that it finds everything below `root`.

    Args:
        root: all layers merged.
        argv: of the image; its first part must be an absolute path to an interpreter.
        folder: working directory, inside.
        architecture: amd64 | arm64.
        environment: of the image; what points to /tmp points into `scratch` afterwards.
        ours: variables that are set as they are.
        scratch: a private folder of this host.

    Raises:
        EngineError: the program or its loader is missing, or it is no dynamically linked program.
    """
    program = resolve(root, argv[0])
    loader = resolve(root, _interpreter(program))
    triplet = _TRIPLETS.get(architecture, architecture)
    libraries = [root / name.format(triplet=triplet) for name in _LIBRARY_FOLDERS]
    path = ":".join(str(found) for found in libraries if found.is_dir())
    prefix: tuple[str, ...] = (str(loader), "--inhibit-cache", "--library-path", path, str(program))
    if program.name.startswith("python"):
        prefix += ("-B",)  # the root is writable here, and must stay what the image is
    rest = tuple(
        f"{root}{part}" if part.startswith("/") and os.path.lexists(f"{root}{part}") else part for part in argv[1:]
    )
    moved = {
        name: str(scratch) + value[4:] if value == "/tmp" or value.startswith("/tmp/") else value  # noqa: S108
        for name, value in environment.items()
    }
    place = Path(f"{root}{folder}")
    return Command(
        (*prefix, *rest),
        {**moved, **ours, ENV_ROOT: str(root), ENV_PYTHON: json.dumps(prefix)},
        place if place.is_dir() else root,
    )


def resolve(root: Path, path: str) -> Path:
    """Where `path` of a container lies on this host; links stay inside `root`.

    Raises:
        EngineError: nothing is there, or links go in circles.
    """
    parts = [part for part in path.split("/") if part]
    place: list[str] = []
    links = 0
    while parts:
        part = parts.pop(0)
        if part in (".", ".."):
            place = place[:-1] if part == ".." else place
            continue
        here = root.joinpath(*place, part)
        if here.is_symlink():
            links += 1
            target = os.readlink(here)  # noqa: PTH115 - kept as text, it may be absolute
            parts = [p for p in target.split("/") if p] + parts
            place = [] if target.startswith("/") else place
            if links <= _MAX_LINKS:
                continue
        if links > _MAX_LINKS or not here.exists():
            raise EngineError(f"the image has no {path}", found=f"/{'/'.join([*place, part])} is missing")
        place.append(part)
    return root.joinpath(*place)


def _interpreter(program: Path) -> str:
    """The loader that an ELF program names (PT_INTERP)."""
    with program.open("rb") as stream:
        head = stream.read(64)
        if head[:5] != b"\x7fELF\x02" or len(head) < 64:
            raise EngineError(
                "the image's program cannot be run without a container", found=f"{program.name} is no 64-bit ELF"
            )
        offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        for number in range(count):
            stream.seek(offset + number * size)
            header = stream.read(56)
            if len(header) == 56 and struct.unpack_from("<I", header)[0] == 3:
                at, length = struct.unpack_from("<Q", header, 8)[0], struct.unpack_from("<Q", header, 32)[0]
                stream.seek(at)
                return stream.read(min(length, 4096)).rstrip(b"\0").decode("utf-8", "replace")
    raise EngineError("the image's program cannot be run without a container", found=f"{program.name} names no loader")


def spawn(
    what: Command, architecture: str, *, network: bool, stderr: int = subprocess.STDOUT
) -> subprocess.Popen[bytes]:
    """The running command, in a session of its own; it dies with the calling thread."""
    return subprocess.Popen(
        what.argv,
        cwd=what.folder,
        env=dict(what.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=_walls(architecture, network),
    )


def _walls(architecture: str, network: bool) -> Callable[[], None]:
    """What the child does before it runs the command; everything is allocated here, before the fork."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    program = filter_program(architecture, network=network)
    buffer = ctypes.create_string_buffer(program or b"", len(program or b""))
    header = ctypes.create_string_buffer(struct.pack("<H6xQ", len(program or b"") // 8, ctypes.addressof(buffer)))
    address = ctypes.addressof(header)

    def put_up() -> None:
        assert buffer is not None and header is not None  # both must live until the call below
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if program is not None:
            prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0)

    return put_up


def prove(pid: int, why: str) -> Hardening:
    """What little there is, read from the real process."""
    measures = dict.fromkeys(MEASURES, False)
    notes = [f"NOT ISOLATED: {why}; the model runs as you, and can read and write your files"]
    try:
        status = read_status(pid)
        measures["capabilities"] = no_capabilities(status)
        measures["no_new_privs"] = status.get("NoNewPrivs") == "1"
        measures["seccomp"] = status.get("Seccomp") == "2"
    except (OSError, ValueError) as error:
        notes.append(f"the process could not be looked at: {error}")
    return Hardening("none", measures, tuple(notes))
