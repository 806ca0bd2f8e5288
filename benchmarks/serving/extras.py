"""What only our server is asked: a megabyte in binary, and what it costs when there is nothing to do."""

from __future__ import annotations

import array
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.build.workshop import call, python
from benchmarks.measure import table
from benchmarks.serving import kitchen, load, tree
from benchmarks.serving.contenders import CONTENDERS, ask, running
from intermodal_server import contract

ELEMENTS = 1 << 18  # of FP32: one megabyte


@dataclass(frozen=True)
class Idle:
    """With a model that does nothing."""

    start_s: float  # from the start of the server to its first answer
    front_mb: float  # resident memory of the front process
    tree: tree.Memory


def binary_ms(seconds: int) -> float:
    """The median time of a request with 1 MB in and out; the model gives its array back, which takes no time."""
    tensor = {"name": "X", "datatype": "FP32", "shape": [ELEMENTS], "parameters": {"binary_data_size": 4 * ELEMENTS}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    raw = array.array("f", range(ELEMENTS)).tobytes()
    small = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1], "data": [1]}]}).encode()
    headers = ["application/octet-stream", "Inference-Header-Content-Length", str(len(head))]
    with running(CONTENDERS["ours"], "echo", small) as server, tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(head + raw)
        status, _, answer = ask(server.port, "POST", server.contender.path, head + raw, **{headers[1]: headers[2]})
        if status != 200 or not answer.endswith(raw):
            raise RuntimeError(f"the array does not come back: {status}, {len(answer)} bytes")
        return load.measure(server, Path(body.name), 1, seconds, headers).p50_ms


def idle() -> Idle:
    """Start with a model that does nothing, and look."""
    body = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1], "data": [1]}]}).encode()
    with running(CONTENDERS["ours"], "noop", body) as server:
        time.sleep(1)
        pids = tree.pids(server.process.pid)
        (front,) = [pid for pid in pids if _role(pid) == "front"]
        return Idle(server.start_s, tree.memory([front]).rss_mb, tree.memory(pids))


def _role(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    code = next((place for place, word in enumerate(words) if os.path.basename(word) == b"intermodal_server"), None)
    return words[code + 1].decode() if code is not None else ""


def inside() -> str:
    """What the front itself does for a request, in microseconds, as a table; see `inside.py`."""
    folder = kitchen.root("mlp")
    code, site = folder / contract.SERVER_DIR[1:], kitchen.front()
    lines = []
    for rows in (1, 32):
        took = [
            call(
                python(), kitchen.HERE / "inside.py", code, site, folder / contract.SETTINGS_PATH[1:], str(rows), *parts
            )
            for parts in (["observers"], [])
        ]
        lines.append([f"{rows}", *(text.strip() for text in took)])
    return table(("rows", "us a request", "without observers"), lines)
