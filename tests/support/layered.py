"""Images for tests of `check` and of engines: one more layer on an image that is already in a store."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

from intermodal.golden.cases import GoldenFile
from intermodal.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal_server.contract import (
    GOLDEN_PATH,
    LABEL_GOLDEN_DIGEST,
    SERVER_CODE_DIR,
    SETTINGS_PATH,
    ModelSettings,
    ServeSettings,
    Signature,
    TensorSpec,
)

# A V2 server of a few lines: y = factor * x. `behaviour` (a JSON file) tells how it misbehaves.
SERVER = """
import http.server, json, os, signal, socketserver, sys

behaviour = json.load(open(os.environ.get("INTERMODAL_ROOT", "") + "/app/behaviour.json"))
check = os.environ.get("INTERMODAL_START_CHECK", "fail")
signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
print("starting", check, flush=True)
if behaviour.get("dies"):
    sys.exit("the model file is damaged")
if behaviour.get("dies_when_checking") and check == "fail":
    sys.exit("golden cases differ")
mode = os.environ.get("INTERMODAL_MODE")
if behaviour.get("mode") and check == "fail" and mode != behaviour["mode"]:
    sys.exit("told to run elsewhere than was measured")

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, document):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/v2/models/scaled/config" and behaviour.get("mode"):
            return self.answer(200, {"parameters": {"mode": {"string_value": behaviour["mode"]}}})
        reason = behaviour.get("not_ready")
        self.answer(503 if reason else 200, {"ready": not reason, "reason": reason or ""})
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        x = request["inputs"][0]
        if self.path != "/v2/models/scaled/infer":
            return self.answer(404, {"error": "no such model"})
        if "raw" in behaviour:
            return self.answer(200, behaviour["raw"].encode())
        if x["data"][0] in behaviour.get("refuses", []):
            return self.answer(400, {"error": "cannot scale %s" % x["data"][0]})
        if behaviour.get("dies_when_asked"):
            os._exit(9)
        data = [behaviour.get("factor", 2.0) * v for v in x["data"]]
        self.answer(200, {"outputs": [{"name": "y", "datatype": "FP64", "shape": x["shape"], "data": data}]})
    def address_string(self): return ""
    def log_message(self, *a): pass

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server(os.environ["INTERMODAL_SOCKET"], Handler).serve_forever()
"""


def layer(files: Mapping[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> bytes:
    """A plain tar of regular files and their parents; `change` may touch every entry."""
    out = io.BytesIO()
    folders: set[str] = set()
    for path in files:
        parts = path.strip("/").split("/")[:-1]
        folders |= {"/".join(parts[: n + 1]) for n in range(len(parts))}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path.strip("/"))
            entry.size, entry.mode = len(data), 0o644
            if change is not None:
                change(entry)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def with_layer(
    store: Store,
    base: Digest,
    tar: bytes,
    *,
    labels: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Digest:
    """The manifest's digest of the image `base` with one more layer; `settings` replace fields of its config."""
    manifest = json.loads(store.read_bytes(base))
    config = json.loads(store.read_bytes(Digest.parse(manifest["config"]["digest"])))
    stored, size_bytes = store.put_bytes(gzip.compress(tar, 1, mtime=0))
    manifest["layers"].append(Descriptor(LAYER_GZIP, stored, size_bytes).as_json())
    config["rootfs"]["diff_ids"].append(str(Digest.of(tar)))
    config["config"].update(settings or {})
    config["config"]["Labels"] = {**config["config"].get("Labels", {}), **(labels or {})}
    digest, size_bytes = store.put_bytes(json.dumps(config).encode())
    manifest["config"] = Descriptor(CONFIG, digest, size_bytes).as_json()
    digest, size_bytes = store.put_bytes(json.dumps(manifest).encode())
    store.tag(f"layered:{digest.short}", Descriptor(MANIFEST, digest, size_bytes))
    return digest


def scaled_settings(**serve: Any) -> ModelSettings:
    """The settings of the model that `SERVER` plays."""
    tensor = TensorSpec("x", "FP64", (-1,))
    return ModelSettings(
        name="scaled",
        version="1",
        backend="predictor",
        loader="predictor",
        artifact="",
        signature=Signature((tensor,), (TensorSpec("y", "FP64", (-1,)),)),
        call="named",
        serve=ServeSettings(**serve),
    )


def scaled_image(
    store: Store, base: Digest, golden: GoldenFile | None, label: str | None = None, **behaviour: Any
) -> Digest:
    """An image that `check` takes for one of ours: `SERVER`, its settings, and golden cases."""
    files = {
        f"{SERVER_CODE_DIR}/__main__.py": SERVER.encode(),
        "/app/behaviour.json": json.dumps(behaviour).encode(),
        SETTINGS_PATH: scaled_settings().to_json(),
    }
    if golden is not None:
        files[GOLDEN_PATH] = golden.to_bytes()
    if label is None:
        label = str(Digest.of(files[GOLDEN_PATH])) if golden is not None else ""
    return with_layer(store, base, layer(files), labels={LABEL_GOLDEN_DIGEST: label} if label else {})
