"""The seeds of every reader: small well-formed inputs and the hostile ones that other tests hold, as files.

python -m tests.fuzz --seeds      write them anew into corpus/READER/seed-…
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

from hostile.pickles.corpus import BENIGN, HOSTILE, WRAPPER, made, stream, wrapper_state
from support import debs
from support.wheels import make_wheel

from .seeds_requests import bodies, connections

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MAX_SEED_BYTES = 24_000


def write_seeds() -> int:
    """How many seeds lie in the corpus afterwards."""
    count = 0
    for reader, seeds in _all().items():
        folder = CORPUS / reader
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for name, data in seeds.items():
            assert len(data) <= MAX_SEED_BYTES, (name, len(data))
            (folder / f"seed-{name}").write_bytes(data)
            count += 1
    return count


def _all() -> dict[str, dict[str, bytes]]:
    return {
        "zip": _zips(), "tar": _tars(), "ar": _ars(), "pickle": _pickles(),
        "connection": connections(), "body": bodies(),
    }  # fmt: skip


def _zips() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    data = "demo-1.0.data"
    with TemporaryDirectory() as place:
        folder = Path(place)
        found["wheel"] = make_wheel(folder, "demo", "1.0", {"demo/__init__.py": "A = 1\n" * 40}).read_bytes()
        found["wheel-of-everything"] = make_wheel(
            folder, "demo", "1.0",
            {
                "demo/__init__.py": "", "demo/é.txt": "x", "demo.pth": "# c\nimport os\ndemo\n",
                f"{data}/purelib/a.py": "A = 1\n", f"{data}/scripts/run": "#!python\nprint(1)\n",
                f"{data}/data/share/x": "x", f"{data}/headers/x.h": "int x;\n", "demo/tests/t.py": "assert 0\n",
            },
            entry_points="[console_scripts]\ndemo = demo:main\n[gui_scripts]\nw = demo:App.run [extra]\n",
        ).read_bytes()  # fmt: skip
    for name, method in (("stored", zipfile.ZIP_STORED), ("zip64", zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(found["wheel"])) as old, zipfile.ZipFile(out, "w", method) as new:
            for info in old.infolist():
                made_ = zipfile.ZipInfo(info.filename)
                made_.compress_type, made_.external_attr = method, (stat.S_IFREG | 0o755) << 16
                with new.open(made_, "w", force_zip64=name == "zip64") as member:
                    member.write(old.read(info))
        found[name] = out.getvalue()
    found["skops"] = _skops()
    return found


def _skops() -> bytes:
    """A linear model as skops writes it: an object, its state, an array beside it."""

    def node(kind: str, name: str, **more: object) -> dict[str, object]:
        module, _, bare = name.rpartition(".")
        return {"__class__": bare, "__module__": module, "__loader__": kind, **more}

    array = node("NdArrayNode", "numpy.ndarray", type="numpy", file="1.npy")
    version = node("JsonNode", "builtins.str", content='"1.3.2"', is_json=True)
    keys = node("ListNode", "builtins.list", content=[])
    state = node("DictNode", "builtins.dict", content={"coef_": array, "_sklearn_version": version}, key_types=keys)
    model = "sklearn.linear_model._base.LinearRegression"
    schema = node("ObjectNode", model, content=state, protocol=1, _skops_version="0.11.0")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "1.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n" + bytes(24)
        )
        archive.writestr("schema.json", json.dumps(schema))
    return out.getvalue()


TAR = (
    ("./", tarfile.DIRTYPE, "", 0), ("d", tarfile.DIRTYPE, "", 0), ("d/f", tarfile.REGTYPE, "", 700),
    ("d/l", tarfile.SYMTYPE, "f", 0), ("h", tarfile.LNKTYPE, "d/f", 0), ("usr/" * 30 + "x", tarfile.REGTYPE, "", 3),
    ("abs", tarfile.SYMTYPE, "/etc/x", 0), ("é", tarfile.REGTYPE, "", 1),
    ("m" * 150, tarfile.SYMTYPE, "d/" * 80, 0),
)  # fmt: skip


def _tar(layout: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for name, kind, target, size in TAR:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size, entry.mode = kind, target, size, 0o4755
            archive.addfile(entry, io.BytesIO(b"hello world " * 100))
    return out.getvalue().rstrip(b"\0").ljust(512, b"\0") + bytes(1024)


def _tars() -> dict[str, bytes]:
    found = {"ustar-gnu": _tar(tarfile.GNU_FORMAT), "pax": _tar(tarfile.PAX_FORMAT)}
    for name, plain in list(found.items()):
        found[name] = plain + bytes(-len(plain) % 512)
    found["gzip"] = gzip.compress(found["pax"], mtime=0)
    found["gzip-members"] = gzip.compress(found["pax"][:512], mtime=0) + gzip.compress(found["pax"][512:], mtime=0)
    found["empty"] = bytes(1024)
    return found


def _ars() -> dict[str, bytes]:
    entries = [
        debs.folder("./"),
        debs.folder("./usr/bin/"),
        ("./usr/bin/x", b"content" * 60),
        ("./lib/y", b"y"),
        debs.symlink("./usr/bin/z", "x"),
        debs.symlink("./etc/s", "/usr/bin/x"),
        debs.hardlink("./usr/bin/h", "./usr/bin/x"),
        ("./usr/share/ca-certificates/mozilla/A.crt", b"-----BEGIN CERTIFICATE-----\n"),
        ("./usr/share/doc/x/copyright", b"c"),
    ]
    found = {f"deb{suffix.replace('.', '-')}": debs.deb(entries, suffix=suffix) for suffix in ("", ".gz", ".xz")}
    return {name: data for name, data in found.items() if len(data) <= MAX_SEED_BYTES} | {
        "deb-plain": debs.deb(entries[:3], suffix="", data=_tar(tarfile.PAX_FORMAT)[:6144] + bytes(1024))
    }


def _pickles() -> dict[str, bytes]:
    found = {case.replace(".", "-"): data for case, (data, _) in HOSTILE.items() if len(data) < 600}
    found["benign"] = stream(BENIGN)
    found["benign-zlib"] = zlib.compress(stream(BENIGN))
    found["array"] = stream(made(WRAPPER) + wrapper_state(count=2) + b"\0" * 16)
    for protocol in range(6):
        found[f"plain-{protocol}"] = pickle.dumps({"a": [1, 2.5, ("x", b"y")], "b": {3}, "c": 1 << 70}, protocol)
    for example in ("conflict-old", "conflict-new", "digits", "passengers"):
        found[f"model-{example}"] = (EXAMPLES / example / "model.joblib").read_bytes()
    return found
