"""Images with the real server and a predictor of a few lines: what rollouts are tried with, built without network.

Layers: this interpreter with its standard library; the server of this checkout with the front's packages; the
predictor. The first two are made once a process.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import platform
import sys
import sysconfig
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from intermodal.golden.cases import GoldenCase, GoldenFile
from intermodal.host import ARCHITECTURES
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import manifest_bytes
from intermodal_server.contract import (
    GOLDEN_PATH,
    GRPC_PORT,
    HTTP_PORT,
    LABEL_GOLDEN_DIGEST,
    SERVER_CODE_DIR,
    SETTINGS_PATH,
    ModelSettings,
    ServeSettings,
    Signature,
    TensorSpec,
)
from support.envs import CHECKOUT
from support.tiny_image import VERSION, _libraries, python_files

FRONT = ("httptools", "uvloop", "msgspec", "orjson")
_LEFT_OUT = {"test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages"}
SIGNATURE = Signature((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("label", "BYTES", (-1,)),))

# Answers "even" or "odd"; what `{extra}` puts in is what makes a revision good or bad.
PREDICTOR = """
import os, time
COUNT = 0
{start}
class Model:
    def predict(self, x):
        global COUNT
        COUNT += 1
        {extra}
        return {{"label": [{answer} for value in x]}}
"""
ANSWER = '"even" if int(value) % 2 == 0 else "odd"'


def predictor(*, start: str = "", extra: str = "pass", answer: str = ANSWER) -> str:
    """A predictor's source."""
    return PREDICTOR.format(start=start, extra=extra, answer=answer)


def body(values: list[float]) -> dict[str, Any]:
    """A V2 request."""
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(values)], "data": values}]}


def golden(answers: Mapping[float, str] | None = None) -> GoldenFile:
    """Two cases, one value each, and one with both."""
    answers = answers or {2.0: "even", 3.0: "odd"}
    cases = [GoldenCase(f"case {value:g}", body([value]), _answer([label])) for value, label in answers.items()]
    cases.append(GoldenCase("all", body(list(answers)), _answer(list(answers.values()))))
    return GoldenFile("training", {"python": VERSION, "distributions": {}}, tuple(cases))


def _answer(labels: list[str]) -> dict[str, Any]:
    return {"outputs": [{"name": "label", "datatype": "BYTES", "shape": [len(labels)], "data": labels}]}


def served_image(
    store: Store,
    name: str,
    source: str,
    *,
    model: str = "parity",
    cases: GoldenFile | None = None,
    serve: ServeSettings | None = None,
) -> Descriptor:
    """The descriptor of an image that serves `source`, tagged `name`."""
    settings = ModelSettings(
        model, name.partition(":")[2] or "1", "predictor", "predictor", "", SIGNATURE, call="named",
        predictor="app:Model", python=VERSION, serve=serve or ServeSettings(drain_s=0.8),
    )  # fmt: skip
    files = {"/app/app.py": source.encode(), SETTINGS_PATH: settings.to_json()}
    labels = {"dev.intermodal.lock.digest": str(Digest.of(source.encode()))}
    if cases is not None:
        files[GOLDEN_PATH] = cases.to_bytes()
        labels[LABEL_GOLDEN_DIGEST] = str(Digest.of(files[GOLDEN_PATH]))
    layers = [_add(store, *_base(), "base"), _add(store, *_server(), "server"), _add(store, *_packed(files), "app")]
    ports = (HTTP_PORT, GRPC_PORT) if settings.serve.grpc else (HTTP_PORT,)
    if settings.serve.grpc:
        layers.append(_add(store, *_grpc(), "grpc"))
    architecture = ARCHITECTURES[platform.machine().lower()]
    config = config_bytes(layers=layers, architecture=architecture, python=VERSION, labels=labels, ports=ports)
    digest, size = store.put_bytes(config)
    data = manifest_bytes(
        Descriptor(CONFIG, digest, size), [Descriptor(LAYER_GZIP, x.digest, x.size_bytes) for x in layers]
    )
    digest, size = store.put_bytes(data)
    made = Descriptor(MANIFEST, digest, size)
    store.tag(name, made)
    return made


def _add(store: Store, tar: bytes, data: bytes, kind: str) -> LayerInfo:
    digest, size = store.put_bytes(data)
    return LayerInfo(digest, Digest.of(tar), size, len(tar), kind)


@functools.cache
def _base() -> tuple[bytes, bytes]:
    """The interpreter and all of its standard library that a server might want."""
    files = python_files("ctypes, ssl, sqlite3, asyncio, multiprocessing.connection, http.server, resource, fcntl")
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for path in stdlib.rglob("*.py"):
        inside = path.relative_to(stdlib)
        if not _LEFT_OUT & set(inside.parts):
            files[f"/usr/lib/python{VERSION}/{inside}"] = path.read_bytes()
    for path in (stdlib / "lib-dynload").glob("*.so"):
        files[f"/usr/lib/python{VERSION}/lib-dynload/{path.name}"] = path.read_bytes()
    return _packed(files, {"/opt/venv/bin/python3": f"/usr/bin/python{VERSION}"})


@functools.cache
def _server() -> tuple[bytes, bytes]:
    """The server's code, and the front's packages as this environment has them."""
    files: dict[str, bytes] = {
        "/opt/venv/pyvenv.cfg": f"home = /usr/bin\nversion = {sys.version.split()[0]}\n".encode()
    }
    code = CHECKOUT / "src" / "intermodal_server"
    for path in code.rglob("*.py"):
        files[f"{SERVER_CODE_DIR}/{path.relative_to(code)}"] = path.read_bytes()
    site = Path(msgspec.__file__).parents[1]
    return _packed({**files, **_packages(site, FRONT)})


@functools.cache
def _grpc() -> tuple[bytes, bytes]:
    """What the front needs besides, for gRPC."""
    from support.grpc_clients import front_site

    return _packed(_packages(front_site(), ("grpc", "google", "typing_extensions.py")))


def _packages(site: Path, names: Sequence[str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name in names:
        for path in [site / name, *(site / name).rglob("*")]:
            if not path.is_file() or path.suffix == ".pyc":
                continue
            files[f"/opt/intermodal/lib/python{VERSION}/site-packages/{path.relative_to(site)}"] = path.read_bytes()
            for wanted, found in _libraries(path) if path.suffix == ".so" else ():
                if not wanted.startswith("/"):
                    files[f"/lib/{wanted}"] = found.read_bytes()
    return files


def _packed(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> tuple[bytes, bytes]:
    out = io.BytesIO()
    folders = {"tmp": 0o1777, "app": 0o755, "run": 0o755, "dev": 0o755, "proc": 0o755, "sys": 0o755, "model": 0o755}
    for path in [*files, *(links or {})]:
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
            entry.size, entry.mode = len(data), 0o755 if data[:4] == b"\x7fELF" else 0o644
            archive.addfile(entry, io.BytesIO(data))
        for path, target in sorted((links or {}).items()):
            entry = tarfile.TarInfo(path.strip("/"))
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
    tar = out.getvalue()
    return tar, gzip.compress(tar, 1, mtime=0)


def requests_of(cases: GoldenFile) -> list[bytes]:
    """The requests of golden cases as bodies."""
    return [json.dumps(case.request).encode() for case in cases.cases]
