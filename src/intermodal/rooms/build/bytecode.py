"""Byte code, compiled by the interpreter of the image and the same whatever was compiled before it.

Takes (path, source) pairs, hands on (path, .pyc content) pairs; nothing is written to disk.

Rules, in order:
1. The interpreter is the one in the unpacked base, never the host's: two patch releases already differ.
2. It runs confined (no network, nothing writable), with `-I -S`, so no .pth and no site code of the base runs. Where
   the host permits no confinement, a base of signed Debian packages may run through its own loader, with a notice.
3. Files are unchecked-hash (PEP 552) and carry the path in the image, so neither time nor place shows.
4. Code is written in canonical form: marshal decides by reference counts what it writes twice, and those depend on
   what the process did before. Written without references, read back and written again, it does not. The form without
   references knows no slices, which are constants from Python 3.14 on: on that way they are tuples that begin with a
   code object, as no constant does.
5. A source that is not valid Python (a template, another version's syntax) has no byte code, as with compileall.

One process per core; each is asked for one file at a time over its pipes.

Spec: PEP 552, "Deterministic pycs"; docs/decisions/0004-canonical-byte-code.md.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from intermodal.errors import EngineError, HostError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.folder_once import folders_in_use

if TYPE_CHECKING:
    import subprocess
    from concurrent.futures import ThreadPoolExecutor

POLICY_VERSION = 1  # part of a layer's identity: changes whenever the same source would give other byte code
MAX_BYTES = 256 << 20  # of one file's byte code
STRANGERS_S = 300.0  # how long a stranger's interpreter may take over one file
FEW = 8  # files that one process compiles by itself
ORDER_VARIABLE = "INTERMODAL_COMPILE_ORDER"
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_LOADERS = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}
_ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/bin"}
# Runs in the image's Python; 3.9 syntax. Requests: two lengths, path, source. Answers: status, length, content.
_PROGRAM = """
import sys, gc, marshal, _imp
from struct import pack, unpack
from _frozen_importlib_external import MAGIC_NUMBER
magic = int.from_bytes(MAGIC_NUMBER, "little")
gc.disable()  # code has no cycles; looking for them costs a twentieth
requests, answers = sys.stdin.buffer, sys.stdout.buffer
def canonical(code):
    return marshal.dumps(shown(marshal.loads(marshal.dumps(hidden(code), 2))))
MARK = compile("", "", "exec")
CODE = type(MARK)
def changed(item, by):
    old = item.co_consts if isinstance(item, CODE) else item if isinstance(item, tuple) else ()
    new = tuple([by(part) for part in old])
    if all([one is other for one, other in zip(old, new)]):
        return item
    return item.replace(co_consts=new) if isinstance(item, CODE) else new
def hide(item):
    return (MARK, item.start, item.stop, item.step) if isinstance(item, slice) else changed(item, hide)
def show(item):
    marked = isinstance(item, tuple) and len(item) == 4 and isinstance(item[0], CODE)
    return slice(*item[1:]) if marked else changed(item, show)
def same(code):
    return code
hidden, shown = (hide, show) if sys.version_info >= (3, 14) else (same, same)
while True:
    head = requests.read(8)
    if len(head) < 8:
        break
    name, size = unpack("<II", head)
    path = requests.read(name).decode()
    source = requests.read(size)
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=-1)
        body = canonical(code)
        content = MAGIC_NUMBER + pack("<I", 1) + _imp.source_hash(magic, source) + body
        answer = pack("<BI", 1, len(content)) + content
        del code, body, content
    except Exception:
        answer = pack("<BI", 0, 0)
    answers.write(answer)
    answers.flush()
"""


class Compiler:
    """Compiling processes for the length of a `with` block, started when first needed.

    Args:
        rootfs: gives the unpacked base (`oci.unpack.unpack_layer`, below the host's cache folder), a folder or one per
            layer, when first needed.
        python: "3.11", of the base.
        host: this machine; its cores say how many processes.
        events: told when nothing confines the processes, and which order was asked for.
        interpreter: its path in the base; default: /usr/bin/python3.N.
        signed: the base is made of signed packages, so it may run unconfined where the host cannot confine.
    """

    def __init__(
        self,
        rootfs: Callable[[], Path | tuple[Path, ...]],
        python: str,
        host: Host,
        events: Events = SILENT,
        *,
        interpreter: str = "",
        signed: bool = True,
    ) -> None:
        self._unpack = rootfs
        self._rootfs: tuple[Path, ...] = ()
        self._interpreter = interpreter or f"/usr/bin/python{python}"
        self._signed = signed
        self._in_use = ExitStack()
        self._python = python
        self._host = host
        self._events = events
        self._pool: ThreadPoolExecutor | None = None
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._confined: bool | None = None

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._in_use.close()

    def compile(self, items: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes | None]]:
        """Each path with the content of its .pyc, or with None where the source is not valid Python.

        Args:
            items: path in the image, relative to its root, and source.

        Raises:
            EngineError: the interpreter cannot be started, or died over a file.
        """
        listed = self._ordered(list(items))
        if not listed:
            return
        self._require_rootfs()
        # an edit of the application is a file or two: threads would cost more than they save
        compiled = map(self._compile, listed) if len(listed) <= FEW else self._threads().map(self._compile, listed)
        for (path, _), content in zip(listed, compiled, strict=True):
            yield path, content

    def begin(self) -> None:
        """Start the process of this thread now, so that it is up when the first file comes.

        Raises:
            EngineError: the interpreter cannot be started.
        """
        self._require_rootfs()
        self._mine()

    def _require_rootfs(self) -> None:
        with self._lock:
            if not self._rootfs:
                self._in_use.enter_context(folders_in_use(self._host.cache_dir))
                found = self._unpack()
                self._rootfs = found if isinstance(found, tuple) else (found,)

    def _threads(self) -> ThreadPoolExecutor:
        """The threads, each of which will have a process of its own."""
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(max(1, self._host.cores), "compile")
            return self._pool

    def _ordered(self, items: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        seed = self._host.environment.get(ORDER_VARIABLE, "")
        if seed and len(items) > 1:
            import random

            random.Random(seed).shuffle(items)  # noqa: S311 - a proof of independence, not a secret
            first = ", ".join(path.rpartition("/")[2] for path, _ in items[:3])
            self._events.notice(f"compiling {len(items)} files in shuffled order (seed {seed}): {first}, …")
        return items

    def _compile(self, item: tuple[str, bytes]) -> bytes | None:
        """One file's byte code; a stranger's interpreter has so long for it."""
        process = self._mine()
        if self._signed:
            return self._ask(process, item)
        watch = threading.Timer(STRANGERS_S, process.kill)
        watch.daemon = True
        watch.start()
        try:
            return self._ask(process, item)
        finally:
            watch.cancel()

    def _ask(self, process: subprocess.Popen[bytes], item: tuple[str, bytes]) -> bytes | None:
        path, source = item
        assert process.stdin is not None and process.stdout is not None
        name = f"/{path}".encode()
        try:
            process.stdin.write(struct.pack("<II", len(name), len(source)) + name + source)
            process.stdin.flush()
            head = process.stdout.read(5)
            status, size = struct.unpack("<BI", head)
            content = process.stdout.read(size) if size <= MAX_BYTES else b""
        except (OSError, struct.error, ValueError) as error:
            raise EngineError(
                f"the byte-code compiler ended while it had {path}",
                found=f"exit status {process.poll()}",
                next='set bytecode = "none" under [environment] to go without, or leave that package out',
            ) from error
        if len(content) != size:
            raise EngineError(
                f"the byte-code compiler did not answer over {path}",
                found=f"{len(content)} of {size} bytes, exit status {process.poll()}",
                next='set bytecode = "none" under [environment] to go without, or take another base',
            )
        return content if status else None

    def _mine(self) -> subprocess.Popen[bytes]:
        """This thread's process: confined ones die with the thread that started them."""
        process: subprocess.Popen[bytes] | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = self._start()
            with self._lock:
                self._processes.append(process)
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = ["-I", "-S", "-W", "ignore", "-c", _PROGRAM]
        try:
            if self._is_confined():
                from intermodal.engine.confine import run_confined

                argv = [self._interpreter, *arguments]
                return run_confined(self._rootfs, argv, host=self._host, environment=_ENVIRONMENT)
            import subprocess

            return subprocess.Popen(
                [*self._loader(), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
            )
        except OSError as error:
            raise EngineError(
                "cannot start the interpreter of the image to compile byte code",
                found=str(error),
                next='set bytecode = "none" under [environment] to go without',
            ) from error

    def _is_confined(self) -> bool:
        from intermodal.engine.confine import available

        with self._lock:
            if self._confined is None:
                why = available(self._host)
                self._confined = why is None
                if why is not None and not self._signed:
                    raise EngineError(
                        "the interpreter of a base from a registry must be confined, and this host does not permit it",
                        found=why,
                        next='set bytecode = "none" under [environment], or build where user namespaces are allowed',
                    )
                if why is not None:
                    self._events.notice(f"byte code is compiled by the signed base's Python, not confined: {why}")
        return self._confined

    def _loader(self) -> list[str]:
        """The base's Python, started by the base's own loader with the base's own libraries."""
        architecture = self._host.architecture
        if architecture not in _TRIPLETS:
            raise HostError(f"cannot compile byte code on {architecture}", next='set bytecode = "none"')
        root = self._rootfs[0]
        libraries = root / "usr" / "lib" / _TRIPLETS[architecture]
        loader = libraries / _LOADERS[architecture]
        python = root / "usr" / "bin" / f"python{self._python}"
        return [str(loader), "--library-path", str(libraries), str(python)]


def pyc_path(path: str, python: str) -> str:
    """Where the byte code of the source at `path` lies.

    >>> pyc_path("opt/venv/lib/python3.11/site-packages/six.py", "3.11")
    'opt/venv/lib/python3.11/site-packages/__pycache__/six.cpython-311.pyc'
    """
    folder, _, name = path.rpartition("/")
    tag = f"cpython-{python.replace('.', '')}"
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"


def _close(pipe: object) -> None:
    with suppress(OSError):  # it may still hold bytes for a process that is gone
        pipe.close()  # type: ignore[attr-defined]
