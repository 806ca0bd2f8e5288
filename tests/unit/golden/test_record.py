"""Recording under real training environments: what is written, what is refused, and which interpreter is taken."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support.envs import CHECKOUT, training_python
from support.machine import machine

from intermodal.errors import ArtifactError, ContradictionError, InputError, UnsafeModelError
from intermodal.golden.cases import GoldenFile, read_golden, write_golden
from intermodal.golden.record import record
from intermodal.golden.training import find_interpreter, probe
from intermodal.host import Host
from intermodal.project.load import load
from intermodal.rooms.inspect import inspect

pytestmark = pytest.mark.network
OLD = ("scikit-learn==1.3.2", "numpy==1.26.4")
NEW = ("scikit-learn==1.9.1", "numpy>=2")


def example(name: str, tmp_path: Path) -> Path:
    """A copy of an example without its golden cases."""
    folder = tmp_path / name
    shutil.copytree(
        CHECKOUT / "examples" / name, folder, ignore=shutil.ignore_patterns("golden.json", "pylock*", "__py*")
    )
    return folder


def recorded(folder: Path, inputs: Path, host: Host, **options: Any) -> GoldenFile:
    project = load(folder, host, recording=True)
    return record(project, inspect(project, host=host), inputs, host=host, **options)


def test_rows_recorded_where_the_model_was_trained(tmp_path: Path) -> None:
    folder = example("conflict-old", tmp_path)
    host = machine(tmp_path)
    golden = recorded(folder, folder / "rows.npy", host, python=training_python(*OLD))
    committed = read_golden(CHECKOUT / "examples/conflict-old/golden.json")
    assert golden.recorded_in == "training"
    assert golden.environment["distributions"]["scikit-learn"] == "1.3.2"
    assert golden.environment["distributions"]["numpy"] == "1.26.4"
    assert [case.name for case in golden.cases] == [case.name for case in committed.cases]
    for mine, theirs in zip(golden.cases, committed.cases, strict=True):
        assert mine.request == theirs.request
        label, probabilities = mine.response["outputs"]
        assert label["data"] == theirs.response["outputs"][0]["data"]
        assert probabilities["data"] == pytest.approx(theirs.response["outputs"][1]["data"], rel=1e-9)


def test_an_old_model_under_a_new_environment_is_refused(tmp_path: Path) -> None:
    folder = example("conflict-old", tmp_path)
    with pytest.raises(
        ContradictionError, match=r"saved by scikit-learn 1\.3\.2, but the environment has 1\.9\.1"
    ) as caught:
        recorded(folder, folder / "rows.npy", machine(tmp_path), python=training_python(*NEW))
    assert any("numpy" in line for line in caught.value.found), "NumPy's major version contradicts too"
    assert "--python" in caught.value.next[0]


def test_a_new_model_under_an_old_environment_is_refused(tmp_path: Path) -> None:
    folder = example("conflict-new", tmp_path)
    with pytest.raises(ContradictionError, match=r"1\.9\.1, but the environment has 1\.3\.2"):
        recorded(folder, folder / "rows.npy", machine(tmp_path), python=training_python(*OLD))


def test_the_active_environment_is_found(tmp_path: Path) -> None:
    folder = example("conflict-new", tmp_path)
    python = training_python(*NEW)
    for active in (
        {"VIRTUAL_ENV": str(python.parent.parent)},
        {"CONDA_PREFIX": str(python.parent.parent)},
        {"PATH": str(python.parent)},
    ):
        golden = recorded(folder, folder / "rows.npy", machine(tmp_path, **active))
        assert golden.environment["distributions"]["scikit-learn"] == "1.9.1"


def test_the_tool_s_own_environment_is_never_taken_by_itself(tmp_path: Path) -> None:
    host = machine(tmp_path, VIRTUAL_ENV=sys.prefix)
    with pytest.raises(InputError, match="no active environment has msgspec") as caught:
        find_interpreter(None, ("msgspec",), (), host)
    assert "intermodal's own environment" in caught.value.found[0]
    assert "msgspec" in caught.value.found[0]
    named = find_interpreter(Path(sys.executable), ("msgspec",), (), host)
    assert named.versions["msgspec"]


def test_environments_without_the_framework_are_listed(tmp_path: Path) -> None:
    bare = training_python("numpy==2.4.6")
    with pytest.raises(InputError, match="no active environment has scikit-learn") as caught:
        find_interpreter(None, ("scikit-learn",), (), machine(tmp_path, PATH=f"{bare.parent}:/nowhere"))
    assert "without scikit-learn" in caught.value.found[0]
    with pytest.raises(InputError, match="cannot run the model"):
        find_interpreter(bare, ("scikit-learn",), (), machine(tmp_path))
    with pytest.raises(InputError, match="is no working Python"):
        find_interpreter(tmp_path / "nothing", (), (), machine(tmp_path))
    assert probe(Path("/bin/true"), ()) is None


def test_columns_of_text_and_numbers(tmp_path: Path) -> None:
    folder = example("passengers", tmp_path)
    python = training_python("scikit-learn==1.9.1", "pandas==3.0.6")
    golden = recorded(folder, folder / "rows.csv", machine(tmp_path), python=python)
    committed = read_golden(CHECKOUT / "examples/passengers/golden.json")
    for mine, theirs in zip(golden.cases, committed.cases, strict=True):
        assert mine.response["outputs"][0] == theirs.response["outputs"][0]
        assert mine.response["outputs"][1]["data"] == pytest.approx(theirs.response["outputs"][1]["data"], rel=1e-9)
    kinds = {item["name"]: item["datatype"] for item in golden.cases[0].request["inputs"]}
    assert kinds["remark"] == "BYTES"
    assert kinds["children"] == "INT64"
    assert None in next(i for i in golden.cases[-1].request["inputs"] if i["name"] == "age")["data"]


def test_predictor(tmp_path: Path) -> None:
    folder = example("predictor", tmp_path)
    golden = recorded(folder, folder / "inputs.json", machine(tmp_path), python=training_python("numpy==2.4.6"))
    committed = read_golden(CHECKOUT / "examples/predictor/golden.json")
    for mine, theirs in zip(golden.cases, committed.cases, strict=True):
        assert mine.request == theirs.request
        for output, known in zip(mine.response["outputs"], theirs.response["outputs"], strict=True):
            assert {**output, "data": pytest.approx(known["data"], rel=1e-9)} == known  # processors differ
    assert not list(folder.rglob("__pycache__")), "recording must leave nothing behind"


def test_a_model_that_refuses_its_inputs(tmp_path: Path) -> None:
    folder = example("predictor", tmp_path)
    body = json.loads((folder / "inputs.json").read_text())
    body["inputs"][1]["shape"], body["inputs"][1]["data"] = [4], [0.0] * 4
    (folder / "wrong.json").write_text(json.dumps([body]))
    with pytest.raises(InputError, match="refuses the inputs of 'request 1'") as caught:
        recorded(folder, folder / "wrong.json", machine(tmp_path), python=training_python("numpy==2.4.6"))
    assert "IndexError" in caught.value.found[0]


def test_a_model_that_does_not_load(tmp_path: Path) -> None:
    folder = example("predictor", tmp_path)
    (folder / "earth.json").write_text("{}")
    with pytest.raises(ArtifactError, match="does not run under") as caught:
        recorded(folder, folder / "inputs.json", machine(tmp_path), python=training_python("numpy==2.4.6"))
    assert "radius_km" in "\n".join(caught.value.found)


def test_an_unsafe_model_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path) + b"/owned'\ntR.")
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(UnsafeModelError):
        recorded(tmp_path / "model.pkl", tmp_path / "x.csv", machine(tmp_path), python=Path(sys.executable))
    assert not (tmp_path / "owned").exists()


def test_locked_recording_says_so(tmp_path: Path) -> None:
    folder = example("predictor", tmp_path)
    seen: list[Any] = []

    def image(requests: Any) -> Any:
        seen.extend(requests)
        environment = {"python": "3.11.2", "distributions": {"numpy": "2.4.6"}, "signature": {}}
        return {"responses": [{"outputs": [], "model_name": "x"} for _ in requests], "environment": environment}

    golden = recorded(folder, folder / "inputs.json", machine(tmp_path), locked=True, replay=image)
    assert golden.recorded_in == "locked"
    assert len(seen) == len(golden.cases) == 5
    assert golden.environment == {"python": "3.11.2", "distributions": {"numpy": "2.4.6"}}
    with pytest.raises(InputError, match="needs the built image"):
        recorded(folder, folder / "inputs.json", machine(tmp_path), locked=True)


def test_writing_replaces_at_once(tmp_path: Path) -> None:
    golden = GoldenFile("training", {"python": "3.11"}, ())
    write_golden(tmp_path / "golden.json", golden)
    assert read_golden(tmp_path / "golden.json") == golden
    assert [p.name for p in tmp_path.iterdir()] == ["golden.json"]
