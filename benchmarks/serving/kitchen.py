"""What is there before anything is timed: environments by uv, trained models, our image's folders, wrk.

Everything lies in a folder outside the checkout and is kept; the lists of versions are committed beside this file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.build.workshop import CHECKOUT, OUT, call, python
from intermodal.rooms.lock.resolve import SERVER_REQUIREMENTS
from intermodal_server import contract
from intermodal_server.contract import ModelFile, ModelSettings, ServeSettings, Signature, TensorSpec

HERE = Path(__file__).parent
PEERS = HERE / "peers"
FOLDER = OUT / "serving"
CODE = CHECKOUT / "src" / "intermodal_server"
KINDS = ("forest", "mlp")


@dataclass(frozen=True)
class Job:
    """What is asked, and what the right answer is."""

    rows: list[list[float]]
    answers: dict[int, dict[str, Any]]
    own_ms: dict[int, dict[str, float]]


def uv() -> Path:
    """The uv that this checkout depends on."""
    return Path(sys.executable).with_name("uv")


def wrk() -> str:
    """The load generator, installed from Debian where it is missing."""
    if shutil.which("wrk") is None:
        call("apt-get", "install", "-y", "--no-install-recommends", "wrk")
    return str(shutil.which("wrk"))


def environment(name: str, requirements: Path) -> Path:
    """A virtual environment with exactly the packages of a list; its `bin`."""
    folder = FOLDER / "envs" / name
    stamp, wanted = folder / ".list", requirements.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        call(uv(), "venv", "-q", "--python", python(), folder)
        call(uv(), "pip", "install", "-q", "--compile-bytecode", "--python", folder / "bin" / "python", "-r",
             requirements)  # fmt: skip
        stamp.write_text(wanted)
    return folder / "bin"


def models() -> Path:
    """The folder that `train.py` made."""
    train = HERE / "train.py"
    key = hashlib.sha256(train.read_bytes() + (HERE / "models.txt").read_bytes()).hexdigest()[:12]
    folder = FOLDER / f"models-{key}"
    if not (folder / "job.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        call(environment("models", HERE / "models.txt") / "python", train, folder)
    return folder


def job() -> Job:
    """The rows, answers and times that `train.py` wrote down."""
    document = json.loads((models() / "job.json").read_text())
    numbered = {name: {int(n): each for n, each in document[name].items()} for name in ("answers", "own_ms")}
    return Job(document["rows"], **numbered)


def settings(kind: str) -> ModelSettings:
    """What `model.json` of our image says."""
    serve = ServeSettings(drain_s=0)
    if kind == "forest":
        signature = Signature((TensorSpec("X", "FP64", (-1, 64)),), ())
        return ModelSettings("bench", "1", "sklearn", "joblib", "model.joblib", signature, serve=serve)
    if kind == "mlp":
        output = TensorSpec("probabilities", "FP32", (-1, 10))
        signature = Signature((TensorSpec("X", "FP32", (-1, 64)),), (output,))
        return ModelSettings("bench", "1", "onnx", "onnx", "model.onnx", signature, call="named", serve=serve)
    signature = Signature((TensorSpec("X", "FP32", (-1,)),), (TensorSpec("Y", "FP32", (-1,)),))
    return ModelSettings(
        "bench", "1", "predictor", "predictor", "", signature, call="named", predictor="bench_model:Model", serve=serve
    )


def root(kind: str) -> Path:
    """A folder as an image of ours has it, under the server of this checkout: code, packages, environment, model."""
    folder = FOLDER / "roots" / kind
    shutil.rmtree(folder, ignore_errors=True)
    code = folder / contract.SERVER_CODE_DIR[1:]
    shutil.copytree(CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
    call(python(), "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", code)
    (code.parent / "lib").symlink_to(front().parents[1])
    bare = FOLDER / "envs" / "bare"
    if kind == "noop":
        if not bare.exists():
            call(uv(), "venv", "-q", "--python", python(), bare)
        (folder / contract.VENV_DIR[1:]).symlink_to(bare)
    else:
        (folder / contract.VENV_DIR[1:]).symlink_to(environment("models", HERE / "models.txt").parent)
    files = []
    for path in sorted((models() / kind).iterdir()):
        place = folder / (contract.APP_DIR if path.suffix == ".py" else contract.MODEL_DIR)[1:]
        place.mkdir(exist_ok=True)
        shutil.copy(path, place)
        if path.suffix != ".py":
            data = path.read_bytes()
            files.append(ModelFile(path.name, len(data), hashlib.sha256(data).hexdigest()))
    given = settings(kind)
    document = json.loads(given.to_json())
    document["files"] = [vars(each) for each in files]
    place = folder / contract.SETTINGS_PATH[1:]
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(document))
    _record(kind, folder)
    return folder


def front() -> Path:
    """The site-packages of our front, as the lock of a project would choose them."""
    folder = FOLDER / "envs" / "front"
    site = folder / "python3.11" / "site-packages"
    stamp, wanted = folder / ".list", "\n".join(SERVER_REQUIREMENTS)
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        call(uv(), "pip", "install", "-q", "--compile-bytecode", "--python", python(), "--target", site, "-c",
             CHECKOUT / "constraints.txt", *SERVER_REQUIREMENTS)  # fmt: skip
        stamp.write_text(wanted)
    return site


def _record(kind: str, folder: Path) -> None:
    """Golden cases as `record` makes them: 16 of one row, one with all of them."""
    given = settings(kind)
    (spec,) = given.signature.inputs
    if kind in KINDS:
        rows = job().rows
        parts = [[row] for row in rows[:16]] + [rows[:32]]
        shaped = [([len(part), 64], [value for row in part for value in row]) for part in parts]
    else:
        shaped = [([4], [1.0, 2.0, 3.0, 4.0])]
    requests = [
        {"inputs": [{"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data}]}
        for shape, data in shaped
    ]
    done = subprocess.run(
        [folder / contract.VENV_DIR[1:] / "bin" / "python", "-I", folder / contract.SERVER_CODE_DIR[1:], "replay",
         "--settings", folder / contract.SETTINGS_PATH[1:], "--model-dir", folder / contract.MODEL_DIR[1:],
         "--app-dir", folder / contract.APP_DIR[1:]],
        input=json.dumps({"requests": requests}).encode(), stdout=subprocess.PIPE, check=True, env={**os.environ},
    )  # fmt: skip
    document = json.loads(done.stdout)
    cases = [
        {"name": f"case {number}", "request": request, "response": response}
        for number, (request, response) in enumerate(zip(requests, document["responses"], strict=True))
    ]
    golden = {"format": 1, "recorded_in": "training", "environment": document["environment"], "cases": cases}
    (folder / contract.GOLDEN_PATH[1:]).write_text(json.dumps(golden))
