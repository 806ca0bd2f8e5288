"""Models of two real training stacks, in every form that scikit-learn users save them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.envs import training_python

from intermodal.golden.cases import GoldenCase, GoldenFile
from intermodal.rooms.inspect import ModelCard

Inspect = Callable[..., ModelCard]
DIGITS = {
    "digits.joblib": "joblib", "digits.joblib.z": "joblib", "digits.joblib.gz": "joblib", "digits.joblib.bz2": "joblib",
    "digits.joblib.lzma": "joblib", "digits.joblib.xz": "joblib", "digits.compressed": "joblib",
    "digits.pkl.bz2": "joblib", "digits.0.pkl": "pickle", "digits.1.pkl": "pickle", "digits.2.pkl": "pickle",
    "digits.3.pkl": "pickle", "digits.4.pkl": "pickle", "digits.5.pkl": "pickle", "digits.cloudpickle": "pickle",
    "digits.skops": "skops",
}  # fmt: skip


def tensors(specs: tuple[object, ...]) -> str:
    return " ".join(f"{s.name}:{s.datatype}{list(s.shape)}{'?' * s.assumed}" for s in specs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", DIGITS)
def test_every_form_of_one_model_gives_one_answer(models: Path, card: Inspect, file: str) -> None:
    found = card(models / file)
    assert found.safe
    assert (found.format, found.loader) == (DIGITS[file], DIGITS[file])
    assert (found.backend, found.framework, found.call) == ("sklearn", "scikit-learn", "array")
    assert tensors(found.signature.inputs) == "X:FP64[-1, 64]"
    assert tensors(found.signature.outputs) == "label:INT64[-1] probabilities:FP64[-1, 10]"
    assert "scikit-learn" in found.requires
    assert "numpy" in found.requires
    assert found.digest.hex == hashlib.sha256((models / file).read_bytes()).hexdigest()
    assert [(row.path, row.size_bytes) for row in found.files] == [(file, (models / file).stat().st_size)]


def test_versions_are_told_with_their_evidence(models: Path, card: Inspect) -> None:
    found = card(models / "digits.joblib")
    version, major = ("1.3.2", "1") if found.versions["scikit-learn"].version == "1.3.2" else ("1.9.1", "2")
    stamp = found.versions["scikit-learn"]
    assert stamp.version == version
    assert stamp.exact
    names = "Pipeline, StandardScaler, RandomForestClassifier, DecisionTreeClassifier"
    assert stamp.where.startswith(f"_sklearn_version '{version}' in 1")
    assert stamp.where.endswith(f" estimators ({names})")
    assert (found.versions["numpy"].version, found.versions["numpy"].exact) == (major, False)


@pytest.mark.parametrize("file", ["columns.joblib", "columns.pkl", "columns.skops"])
def test_a_dataframe_model_takes_one_input_per_column(models: Path, card: Inspect, file: str) -> None:
    found = card(models / file)
    assert found.call == "columns"
    assert tensors(found.signature.inputs) == "review:BYTES[-1]? city:BYTES[-1]? stars:FP64[-1]? price:FP64[-1]?"
    assert tensors(found.signature.outputs) == "label:BYTES[-1] probabilities:FP64[-1, 2]"
    assert "pandas" in found.requires


@pytest.mark.parametrize("suffix", ["joblib", "pkl"])
@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("linear", "X:FP64[-1, 4]", "prediction:FP64[-1, 2]"),
        ("forest32", "X:FP64[-1, 4]", "prediction:FP64[-1]"),
        ("knn", "X:FP64[-1, 4]", "label:INT64[-1] probabilities:FP64[-1, 3]"),
        ("svc", "X:FP64[-1, 4]", "label:BYTES[-1]"),
        ("svc_proba", "X:FP64[-1, 4]", "label:BYTES[-1] probabilities:FP64[-1, 3]"),
        ("linearsvc", "X:FP64[-1, 4]", "label:INT64[-1]"),
        ("sgd_log", "X:FP64[-1, 4]", "label:INT64[-1] probabilities:FP64[-1, 3]"),
        ("hist", "X:FP64[-1, 4]", "label:INT64[-1] probabilities:FP64[-1, 3]"),
        ("kmeans", "X:FP64[-1, 4]", "prediction:INT32[-1]"),
        ("grid", "X:FP64[-1, 4]", "label:INT64[-1] probabilities:FP64[-1, 3]"),
        ("log1p", "X:FP64[-1, 4]", "label:INT64[-1] probabilities:FP64[-1, 3]"),
        ("float32", "X:FP32[-1, 4]", "prediction:FP32[-1]"),
        ("targets", "X:FP64[-1, 4]", "label:INT64[-1, 2] probabilities_0:FP64[-1, 3] probabilities_1:FP64[-1, 2]"),
        ("named", "a:FP64[-1]? b:FP64[-1]? c:FP64[-1]? d:FP64[-1]?", "label:INT64[-1] probabilities:FP64[-1, 3]"),
        ("codes", "size:INT64[-1]? weight:FP64[-1]?", "prediction:FP64[-1]"),
    ],
)
def test_signatures(models: Path, card: Inspect, name: str, suffix: str, inputs: str, outputs: str) -> None:
    found = card(models / f"{name}.{suffix}")
    assert found.safe
    assert tensors(found.signature.inputs) == inputs
    assert tensors(found.signature.outputs) == outputs


def test_a_text_model_takes_text(models: Path, card: Inspect) -> None:
    found = card(models / "text.joblib")
    assert (found.call, tensors(found.signature.inputs)) == ("array", "text:BYTES[-1]")
    assert tensors(found.signature.outputs) == "label:BYTES[-1]"


def test_golden_cases_settle_the_datatypes(new_models: Path, card: Inspect, tmp_path: Path) -> None:
    inputs = [("review", "BYTES"), ("city", "BYTES"), ("stars", "INT64"), ("price", "FP32")]
    case = GoldenCase(
        "row",
        {"inputs": [{"name": n, "datatype": t, "shape": [1], "data": []} for n, t in inputs]},
        {"outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["yes"]}]},
    )
    golden = tmp_path / "golden.json"
    golden.write_bytes(GoldenFile("training", {"python": "3.11.7"}, (case,)).to_bytes())
    found = card(new_models / "columns.joblib", golden=golden)
    assert tensors(found.signature.inputs) == "review:BYTES[-1] city:BYTES[-1] stars:INT64[-1] price:FP32[-1]"
    assert tensors(found.signature.outputs) == "label:BYTES[-1]"
    assert found.python == "3.11"


def test_a_function_of_the_training_script_is_refused_with_advice(models: Path, card: Inspect) -> None:
    found = card(models / "main.joblib")
    assert not found.safe
    assert [(f.id, f.severity) for f in found.findings] == [("unknown-global", "high")]
    assert "__main__.twice" in found.findings[0].message
    assert "module" in found.findings[0].next
    assert found.signature.inputs  # everything else is told all the same
    assert card(models / "main.joblib", trust=("__main__.twice",)).safe


def test_code_inside_a_pickle_is_refused_until_every_name_is_trusted(models: Path, card: Inspect) -> None:
    found = card(models / "code.cloudpickle")
    assert (found.format, found.loader, found.safe) == ("cloudpickle", "cloudpickle", False)
    code = next(f for f in found.findings if f.id == "code-in-pickle")
    assert "twice" in code.message
    assert "3.11" in code.message
    trusted = card(models / "code.cloudpickle", trust=found.imports)
    assert trusted.safe
    assert any(f.id == "code-in-pickle" for f in trusted.findings)
    assert "cloudpickle" in trusted.requires


def test_a_transformer_alone_has_nothing_to_serve(models: Path, card: Inspect) -> None:
    found = card(models / "scaler.pkl")
    assert found.safe
    assert found.signature.outputs == ()
    assert "no-predict" in [f.id for f in found.findings]


def test_an_unstamped_or_mixed_model_is_told(tmp_path: Path, models: Path, card: Inspect) -> None:
    data = (models / "digits.4.pkl").read_bytes()
    version = card(models / "digits.4.pkl").versions["scikit-learn"].version.encode()
    at = data.index(b"\x8c\x05" + version)
    mixed = (
        tmp_path / "mixed.pkl"
    )  # the first stamp belongs to the innermost object written first, the others point to it
    mixed.write_bytes(data[: at + 2] + b"1.0.1" + data[at + 7 :])
    assert card(mixed).versions["scikit-learn"].version == "1.0.1"
    bare = tmp_path / "bare.pkl"
    bare.write_bytes(data.replace(b"_sklearn_version", b"_sklearn_versiox"))
    found = card(bare)
    assert "scikit-learn" not in found.versions
    assert "version-stamp-missing" in [f.id for f in found.findings]


def test_a_pandas_frame_inside_a_pickle_is_data(models: Path, card: Inspect) -> None:
    from intermodal.errors import ArtifactError
    from intermodal.rooms.inspect.pickles.reader import read_pickle

    assert read_pickle(models / "frame.pkl").findings == ()
    with pytest.raises(ArtifactError, match="holds no model"):
        card(models / "frame.pkl")


@pytest.mark.parametrize("file", ["wide.joblib", "wide.pkl"])
def test_the_rest_of_the_zoo_is_on_the_allow_list(models: Path, file: str) -> None:
    from intermodal.rooms.inspect.pickles.reader import read_pickle

    assert read_pickle(models / file).findings == ()


BOOSTING = """
import sys, joblib, lightgbm, xgboost
from sklearn.datasets import load_iris
rows, targets = load_iris(return_X_y=True)
for model in (xgboost.XGBClassifier, xgboost.XGBRegressor, lightgbm.LGBMClassifier, lightgbm.LGBMRegressor):
    joblib.dump(model(n_estimators=2).fit(rows, targets), f"{sys.argv[1]}/{model.__name__}.joblib")
"""


@pytest.mark.slow
def test_gradient_boosting_of_other_packages(card: Inspect, tmp_path: Path) -> None:
    python = training_python("scikit-learn==1.9.1", "xgboost-cpu==3.2.0", "lightgbm==4.7.0")
    subprocess.run([python, "-c", BOOSTING, tmp_path], check=True, capture_output=True)
    for name, framework, columns, outputs in (
        ("XGBClassifier", "xgboost", -1, "label:INT64[-1] probabilities:FP32[-1, 3]"),
        ("XGBRegressor", "xgboost", -1, "prediction:FP32[-1]"),
        ("LGBMClassifier", "lightgbm", 4, "label:INT64[-1] probabilities:FP64[-1, 3]"),
        ("LGBMRegressor", "lightgbm", 4, "prediction:FP64[-1]"),
    ):
        found = card(tmp_path / f"{name}.joblib")
        assert found.safe
        assert found.framework == framework
        assert {framework, "scikit-learn"} <= set(found.requires)
        assert tensors(found.signature.inputs) == f"X:FP64[-1, {columns}]"
        assert tensors(found.signature.outputs) == outputs
