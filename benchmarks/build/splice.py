"""Wheels to layers, alone: `python -m benchmarks.build.splice MODE WHEELS OUT` prints CPU seconds and bytes as JSON.

MODE `splice`: every wheel of scikit-learn, pandas and onnxruntime verified, pruned and written into a store, without
byte code. MODE `zlib`: the tars of those layers compressed again by zlib at level 6, both digests computed, as a
builder that unpacks wheels would have to. CPU is that of the work; the start of the interpreter is not in it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import resource
import sys
import time
import zlib
from pathlib import Path

STACK = (
    "cloudpickle", "flatbuffers", "joblib", "narwhals", "numpy", "onnxruntime", "packaging", "pandas", "protobuf",
    "python-dateutil", "scikit-learn", "scipy", "threadpoolctl", "tzdata",
)  # fmt: skip


def splice(folder: Path, out: Path) -> dict[str, int]:
    """Write the layers; sizes as stored and as tar."""
    from benchmarks.build import workshop
    from intermodal.events import SILENT
    from intermodal.oci.digest import Digest
    from intermodal.oci.layout import Store
    from intermodal.rooms.build.wheels.groups import LockedWheel, group
    from intermodal.rooms.build.wheels.layers import write_group
    from intermodal.rooms.build.wheels.prune import rules
    from intermodal.rooms.build.wheels.scheme import Scheme

    listed = dict(line.split("==") for path in workshop.LISTS for line in workshop.pinned(path))
    wheels, files = [], {}
    for name in STACK:
        path = workshop.wheel_of(folder, f"{name}=={listed[name]}")
        digest, size = Digest.of_file(path)
        wheels.append(LockedWheel(name, listed[name], path.name, digest, size))
        files[digest] = path
    pruning = rules()
    store = Store(out).open_or_create()
    stored = tar = 0
    start()
    for each in group(wheels):
        with store.writer() as sink:
            info, _ = write_group(
                each, files, Scheme("opt/venv", "3.11"), sink,
                rules=lambda name: pruning if pruning.applies_to(name) else None, compile_sources=None, events=SILENT,
            )  # fmt: skip
            sink.commit(info.digest)
        stored, tar = stored + info.size_bytes, tar + info.tar_bytes
    return {"stored": stored, "tar": tar}


def recompress(out: Path) -> dict[str, int]:
    """Inflate the layers and compress them again; sizes as stored and as tar."""
    stored = tar = 0
    blobs = sorted((out / "blobs" / "sha256").iterdir())
    start()
    for blob in blobs:
        plain, packed, squeeze = hashlib.sha256(), hashlib.sha256(), zlib.compressobj(6)
        with gzip.open(blob) as stream:
            while data := stream.read(1 << 20):
                plain.update(data)
                tar += len(data)
                piece = squeeze.compress(data)
                packed.update(piece)
                stored += len(piece)
        piece = squeeze.flush()
        packed.update(piece)
        stored += len(piece)
    return {"stored": stored, "tar": tar}


_started = (0.0, 0.0)


def start() -> None:
    """Everything before this is preparation."""
    global _started
    _started = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    mode, wheels_folder, out_folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    sizes = splice(wheels_folder, out_folder) if mode == "splice" else recompress(out_folder)
    wall_s, cpu_s = time.perf_counter() - _started[0], time.process_time() - _started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": peak, **sizes}))
