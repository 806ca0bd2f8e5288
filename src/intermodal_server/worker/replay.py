"""Run the worker's own backend over V2 bodies, in whichever interpreter this is: how golden cases are recorded.

    python -I FOLDER replay --settings model.json --model-dir DIR --app-dir DIR   <requests.json >responses.json

Takes `{"requests": [V2 body, …]}`, hands on `{"responses": [V2 body or {"error": text}, …], "environment": {"python",
"distributions", "signature"}}`. What the model prints goes to standard error, so it cannot spoil the answer.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from intermodal_server.contract import ContractError, ModelSettings, Signature, TensorSpec
from intermodal_server.log import Log
from intermodal_server.tensors import Tensor, TensorError, from_document, to_document
from intermodal_server.worker.backends.interface import Backend
from intermodal_server.worker.model import LoadError, load_model


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON; null stands for NaN")


def _observe(seen: dict[str, TensorSpec], tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        shape = tuple(-1 if axis == 0 else length for axis, length in enumerate(tensor.shape))
        known = seen.get(tensor.name)
        if known is not None and len(known.shape) == len(shape):
            shape = tuple(a if a == b else -1 for a, b in zip(known.shape, shape))
        seen[tensor.name] = TensorSpec(tensor.name, tensor.datatype, shape)


def _imported_top_levels() -> set[str]:
    return {name.partition(".")[0] for name, module in list(sys.modules.items()) if getattr(module, "__file__", None)}


def imported_distributions() -> dict[str, str]:
    """Name and version of every installed distribution of which a module is imported."""
    imported, found = _imported_top_levels(), {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or name in found:
            continue
        declared = distribution.read_text("top_level.txt")
        if declared:
            tops = set(declared.split())
        else:
            tops = {str(path).partition("/")[0].partition(".")[0] for path in distribution.files or ()}
        if tops & imported:
            found[name] = distribution.version
    return dict(sorted(found.items()))


def _answer(
    backend: Backend, settings: ModelSettings, request: Mapping[str, Any], seen: list[dict[str, TensorSpec]]
) -> Any:
    try:
        inputs = [from_document(item) for item in request["inputs"]]
        outputs = backend.predict(inputs)
        documents = [to_document(output) for output in outputs]
    except (TensorError, KeyError, TypeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:  # recorded for the person who runs this, not shown to clients
        return {"error": f"{type(error).__name__}: {error}"}
    _observe(seen[0], inputs)
    _observe(seen[1], outputs)
    return {"model_name": settings.name, "model_version": settings.version, "outputs": documents}


def replay(
    settings: ModelSettings, model_dir: str, app_dir: str, requests: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Responses to `requests`, and the environment that gave them.

    Args:
        settings: the model; `files` may be empty, then nothing is verified.
        model_dir: folder that holds the artifact.
        app_dir: folder of the user's code; "" for none.
        requests: V2 bodies in JSON form.

    Raises:
        LoadError: the model cannot be loaded here; the message says why.
    """
    seen: list[dict[str, TensorSpec]] = [{}, {}]
    backend = load_model(settings, model_dir, app_dir, threads=1, strict=False, log=Log("replay"))
    responses = [_answer(backend, settings, request, seen) for request in requests]
    signature = Signature(tuple(seen[0].values()), tuple(seen[1].values()))
    return {
        "responses": responses,
        "environment": {
            "python": platform.python_version(),
            "distributions": imported_distributions(),
            "signature": signature.as_json(),
        },
    }


def run(arguments: list[str]) -> int:
    """0 with the answers on standard output, 1 with `{"error": …}` when the model cannot be loaded, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="replay")
    parser.add_argument("--settings", required=True)
    parser.add_argument("--model-dir", required=True)
    parser.add_argument("--app-dir", default="")
    options = parser.parse_args(arguments)
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    status = 0
    try:
        with open(options.settings, "rb") as file:
            settings = ModelSettings.from_json(file.read())
        requests = json.loads(sys.stdin.buffer.read(), parse_constant=_refuse_constant)["requests"]
        document = replay(settings, options.model_dir, options.app_dir, requests)
    except LoadError as error:
        sys.stderr.write(error.details)
        document, status = {"error": str(error)}, 1
    except (OSError, ContractError, ValueError, KeyError, TypeError) as error:
        document, status = {"error": f"{type(error).__name__}: {error}"}, 2
    with os.fdopen(answer_fd, "w", encoding="utf-8") as out:
        json.dump(document, out, allow_nan=False)
    return status
