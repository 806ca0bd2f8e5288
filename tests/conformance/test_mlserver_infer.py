"""The unmodified `mlserver infer` command: JSON inputs with binary outputs, binary inputs, several workers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.envs import training_python
from support.plain_models import rows_root
from support.serving import serve


def _row(number: int) -> dict[str, Any]:
    data = [float(number), 0.5, -1.0]
    return {"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP64", "data": data}]}


@pytest.mark.parametrize("more", [(), ("--binary-data",), ("--batch-size", "7")], ids=["json", "binary", "batches"])
def test_unmodified_mlserver_infer(tmp_path: Path, more: tuple[str, ...]) -> None:
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    asked.write_text("".join(json.dumps(_row(number)) + "\n" for number in range(40)))
    mlserver = training_python("mlserver==1.7.1").with_name("mlserver")
    with serve(rows_root(tmp_path / "root"), tcp=True) as server:
        command = [str(mlserver), "infer", "-u", f"127.0.0.1:{server.port}", "-m", "rows", "-w", "4"]
        command += ["-i", str(asked), "-o", str(answered), *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in answered.read_text().splitlines()]
    answers = {line["parameters"]["batch_index"]: line["outputs"][0]["data"] for line in lines}
    assert answers == {number: [number - 0.5] for number in range(40)}
