"""A small real image for tests of engines: the running Python's closure, and a service of a few lines.

Built in a second, without network; laid out as ours are (same config, user, entry point), so that an engine cannot
tell the difference.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path

from intermodal.host import ARCHITECTURES
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import manifest_bytes
from intermodal_server.contract import SERVER_CODE_DIR

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
MODULES = (
    "http.server, socketserver, json, signal, ctypes, socket, threading, encodings.idna, errno, fcntl, resource, "
    "runpy, pkgutil"
)

SERVICE = """
import http.server, os, signal, socketserver, sys, threading, time

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ.get("GREETING", "hello").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self): return "somebody"
    def log_message(self, *a): pass

class Unix(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

if sys.argv[1:] == ["health"]:
    sys.exit(0)
if os.environ.get("FAIL"):
    print("cannot go on:", os.environ["FAIL"], file=sys.stderr)
    sys.exit(7)
if os.environ.get("SAY"):
    print(os.environ["SAY"], flush=True)
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
ballast = bytearray(b"x") * (int(os.environ.get("BALLAST_MB", "0")) << 20)
print("listening", VERSION, flush=True)
path, port = os.environ.get("INTERMODAL_SOCKET"), int(os.environ.get("INTERMODAL_PORT", "8080"))
if path:
    server = Unix(path, Answer)
    os.chmod(path, 0o666)
    threading.Thread(target=server.serve_forever, daemon=True).start()
if port:
    http.server.ThreadingHTTPServer(("0.0.0.0", port), Answer).serve_forever()
while True:
    time.sleep(60)
"""


def tiny_image(
    store: Store,
    name: str = "tiny:1",
    *,
    service: str = SERVICE,
    code: str = "1",
    labels: Mapping[str, str] | None = None,
) -> Digest:
    """The manifest's digest of an image with two layers: Python, and the service; `code` makes another second one."""
    architecture = ARCHITECTURES[platform.machine().lower()]
    source = service.replace("VERSION", repr(code))
    layers = [
        _add(store, *_base(), "base"),
        _add(store, *_packed({f"{SERVER_CODE_DIR}/__main__.py": source.encode()}), "app"),
    ]
    lock = {"dev.intermodal.lock.digest": str(Digest.of(code.encode()))}
    config = config_bytes(layers=layers, architecture=architecture, python=VERSION, labels={**lock, **(labels or {})})
    digest, size_bytes = store.put_bytes(config)
    data = manifest_bytes(
        Descriptor(CONFIG, digest, size_bytes), [Descriptor(LAYER_GZIP, x.digest, x.size_bytes) for x in layers]
    )
    manifest, size_bytes = store.put_bytes(data)
    store.tag(name, Descriptor(MANIFEST, manifest, size_bytes))
    return manifest


@functools.cache
def _base() -> tuple[bytes, bytes]:
    return _packed(python_files())


def _packed(files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """The files as tar, plain and compressed."""
    tar = _tar(files)
    return tar, gzip.compress(tar, 1, mtime=0)


def _add(store: Store, tar: bytes, data: bytes, kind: str) -> LayerInfo:
    digest, size_bytes = store.put_bytes(data)
    return LayerInfo(digest, Digest.of(tar), size_bytes, len(tar), kind)


def python_files(modules: str = MODULES, *, whole: bool = True) -> dict[str, bytes]:
    """This interpreter under /usr, with the modules that the service and the probe need and the libraries they need."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    program = Path(sys.executable).resolve()
    listing = subprocess.run(
        [program, "-I", "-S", "-c",
         f"import {modules}, sys, json, os, encodings.utf_8, encodings.ascii, encodings.latin_1\n"
         "print(json.dumps([m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]"
         " + [os.__file__]))"],
        capture_output=True, check=True,
    )  # fmt: skip
    files: dict[str, bytes] = {f"/usr/bin/python{VERSION}": program.read_bytes()}
    binaries = [program]
    for text in json.loads(listing.stdout):
        path = Path(text)
        files[f"/usr/lib/python{VERSION}/{path.relative_to(stdlib)}"] = path.read_bytes()
        if path.suffix == ".so":
            binaries.append(path)
    for path in () if not whole else (*(stdlib / "importlib").rglob("*.py"), *stdlib.glob("*.py")):
        files[f"/usr/lib/python{VERSION}/{path.relative_to(stdlib)}"] = path.read_bytes()
    for binary in binaries:
        for wanted, found in _libraries(binary):
            # the loader is asked for by its full path, the others by name
            files[wanted if wanted.startswith("/") else f"/lib/{found.name}"] = found.read_bytes()
            if not wanted.startswith("/"):
                files[f"/lib/{wanted}"] = found.read_bytes()
    files["/etc/passwd"] = b"root:x:0:0::/:/sbin/nologin\nnonroot:x:65532:65532::/tmp:/sbin/nologin\n"
    return files


def _libraries(binary: Path) -> list[tuple[str, Path]]:
    done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True)
    found = []
    for line in done.stdout.splitlines():
        words = line.split()
        if "=>" in words and len(words) > 2 and words[2].startswith("/"):
            found.append((words[0], Path(words[2])))
        elif words and words[0].startswith("/"):
            found.append((words[0], Path(words[0])))
    return found


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    folders = {"tmp": 0o1777, "app": 0o755, "run": 0o755, "dev": 0o755, "proc": 0o755, "sys": 0o755}
    for path in files:
        parent = os.path.dirname(path.strip("/"))
        while parent:
            folders.setdefault(parent, 0o755)
            parent = os.path.dirname(parent)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, mode in sorted(folders.items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path.strip("/"))
            entry.size = len(data)
            entry.mode = 0o755 if data[:4] == b"\x7fELF" else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()
