"""Acceptance 4: an image that answers differently fails `check`, for that reason, with a diff one can read."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.cli import Result, intermodal
from support.envs import CHECKOUT, training_python
from support.wheels import make_wheel

pytestmark = [pytest.mark.network, pytest.mark.sandbox, pytest.mark.slow]
DIGITS = CHECKOUT / "examples" / "digits"


def project(folder: Path, source: Path = DIGITS) -> Path:
    """An own copy of an example."""
    target = folder / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("pylock.intermodal.toml", "__pycache__"))
    return target


def failed_check(result: Result) -> list[dict[str, object]]:
    """The differences of a check that must have failed: exit 1, a report on stdout."""
    assert result.code == 1, result.out + result.err
    report = result.json
    assert report["passed"] is False
    return list(report["golden"]["failed"])


def test_golden_value_edited(tmp_path: Path) -> None:
    folder = project(tmp_path)
    golden = json.loads((folder / "golden.json").read_text())
    case = golden["cases"][3]
    output = next(o for o in case["response"]["outputs"] if o["name"] == "probabilities")
    before = output["data"][4]
    output["data"][4] = before + 0.25
    (folder / "golden.json").write_text(json.dumps(golden))

    differences = failed_check(intermodal("check", folder, "--json", home=tmp_path))
    assert len(differences) == 1
    found = differences[0]
    assert found["case"] == case["name"]
    assert found["output"] == "probabilities"
    assert found["place"] == [0, 4]
    assert found["expected"] == pytest.approx(before + 0.25)
    assert found["actual"] == pytest.approx(before, abs=1e-9)
    assert found["error"] == pytest.approx(0.25, abs=1e-6)

    said = intermodal("check", folder, home=tmp_path)
    assert said.code == 1
    assert case["name"] in said.err + said.out
    assert "probabilities" in said.err + said.out


def test_retrained_model_under_old_golden_cases(tmp_path: Path) -> None:
    folder = project(tmp_path)
    python = training_python("scikit-learn==1.9.1")
    retrain = (
        "import joblib; from sklearn.datasets import load_digits;"
        "model = joblib.load('model.joblib'); X, y = load_digits(return_X_y=True);"
        "model.fit(X[:200], y[:200]); joblib.dump(model, 'model.joblib')"
    )
    subprocess.run([python, "-c", retrain], cwd=folder, check=True)
    differences = failed_check(intermodal("check", folder, "--json", home=tmp_path))
    assert {d["output"] for d in differences} >= {"probabilities"}
    names = {c["name"] for c in json.loads((folder / "golden.json").read_text())["cases"]}
    assert {d["case"] for d in differences} <= names
    assert max(float(str(d["error"])) for d in differences if d["output"] == "probabilities") > 1e-3


def test_dependency_whose_other_version_answers_differently(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    for version, factor in (("1.0", 2.0), ("2.0", 2.5)):
        make_wheel(
            wheels,
            "scaling",
            version,
            {"scaling.py": f"def scale(x):\n    return [v * {factor} for v in x]\n"},
        )
    folder = tmp_path / "scaled"
    folder.mkdir()
    (folder / "predictor.py").write_text(
        "from scaling import scale\n\n\n"
        "class Scaled:\n"
        "    def load(self, folder):\n        pass\n\n"
        "    def predict(self, x):\n        return {'y': scale([float(v) for v in x])}\n"
    )
    (folder / "golden.json").write_text(
        json.dumps(
            {
                "format": 1,
                "recorded_in": "training",
                "environment": {"python": "3.11.2", "distributions": {"scaling": "1.0"}},
                "cases": [
                    {
                        "name": "two rows",
                        "request": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1.5, 4.0]}]},
                        "response": {"outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [3.0, 8.0]}]},
                    }
                ],
            }
        )
    )

    def check(pin: str) -> Result:
        (folder / "intermodal.toml").write_text(
            '[model]\nname = "scaled"\npredictor = "predictor:Scaled"\n'
            f'[environment]\nrequirements = ["scaling=={pin}"]\n'
        )
        (folder / "pylock.intermodal.toml").unlink(missing_ok=True)
        return intermodal("check", folder, "--json", home=tmp_path, env={"PIP_FIND_LINKS": str(wheels)})

    good = check("1.0")
    assert good.code == 0, good.err
    assert good.json["passed"] is True
    differences = failed_check(check("2.0"))
    assert [(d["case"], d["output"], d["place"], d["expected"], d["actual"]) for d in differences] == [
        ("two rows", "y", [0], 3.0, 3.75),
        ("two rows", "y", [1], 8.0, 10.0),
    ]
    assert [d["error"] for d in differences] == [0.75, 2.0]
