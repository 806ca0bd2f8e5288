"""`intermodal.pack` in a real notebook environment: what it writes is safe, answers alike, and is ready to ship."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.envs import CHECKOUT, training_python
from support.machine import machine

from intermodal.golden.cases import read_golden
from intermodal.golden.snapshot import not_from_an_index
from intermodal.project.load import load
from intermodal.rooms.inspect import inspect

pytestmark = pytest.mark.network
PARTS = (
    "import numpy as np\nfrom sklearn.base import BaseEstimator, TransformerMixin\n\n\n"
    "class Log(TransformerMixin, BaseEstimator):\n"
    "    def fit(self, X, y=None):\n        return self\n\n"
    "    def transform(self, X):\n        return np.log1p(X)\n\n\n"
    "class Moody(BaseEstimator):\n    calls = 0\n\n"
    "    def predict(self, X):\n        Moody.calls += 1\n        return np.full(len(X), float(Moody.calls))\n"
)
PRELUDE = """
import intermodal, numpy as np, pandas as pd, warnings
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
iris = load_iris(as_frame=True)
X, y = iris.data.to_numpy(), iris.target.to_numpy()
plain = LogisticRegression(max_iter=1000).fit(X, y)
"""


def notebook(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` as a notebook in `folder` would."""
    python = training_python("scikit-learn==1.9.1", "pandas==3.0.6", "skops", "msgspec", "packaging")
    (folder / "parts.py").write_text(PARTS)
    (folder / "notebook.py").write_text(PRELUDE + code)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [python, "notebook.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def packed(folder: Path, code: str) -> Path:
    done = notebook(folder, f"print({code})")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_a_scikit_learn_model(tmp_path: Path) -> None:
    folder = packed(tmp_path, 'intermodal.pack(plain, name="iris", inputs=X[::30])')
    assert folder == tmp_path / "iris"
    assert {p.name for p in folder.iterdir()} == {"intermodal.toml", "model.skops", "golden.json"}
    host = machine(tmp_path)
    project = load(folder, host)
    assert project.environment.python == "3.11"
    assert {"scikit-learn==1.9.1"} < set(project.requirements)
    assert not any(line.startswith(("intermodal", "msgspec")) for line in project.requirements)
    card = inspect(project, host=host)
    assert card.safe
    assert card.call == "array"
    golden = read_golden(folder / "golden.json")
    assert golden.recorded_in == "training"
    assert [c.name for c in golden.cases] == ["row 1", "row 2", "row 3", "row 4", "row 5", "all rows"]
    assert golden.cases[-1].response["outputs"][0]["data"] == [0, 0, 1, 1, 2]
    assert {"python", "platform", "distributions", "cpu", "blas"} <= set(golden.environment)
    assert "intermodal" not in golden.environment["distributions"]
    assert list(tmp_path.glob(".*")) == [], "temporary folders stay behind"


def test_named_columns_and_texts(tmp_path: Path) -> None:
    model = "LogisticRegression(max_iter=1000).fit(iris.data, iris.target_names[y])"
    folder = packed(tmp_path, f'intermodal.pack({model}, name="named", inputs=iris.data[:3])')
    case = read_golden(folder / "golden.json").cases[-1]
    assert [i["name"] for i in case.request["inputs"]][:2] == ["sepal length (cm)", "sepal width (cm)"]
    assert case.response["outputs"][0]["data"] == ["setosa"] * 3
    assert "pandas==3.0.6" in load(folder, machine(tmp_path)).requirements

    texts = 'make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0])'
    folder = packed(tmp_path, f'intermodal.pack({texts}, name="texts", inputs=["so good", "bad day"])')
    project = load(folder, machine(tmp_path))
    golden = read_golden(folder / "golden.json")
    assert (
        golden.cases[0].request["inputs"][0]["name"]
        == inspect(project, host=machine(tmp_path)).signature.inputs[0].name
    )
    assert golden.cases[-1].response["outputs"][0]["data"] == [1, 0]


def test_own_classes_need_trust_and_travel_along(tmp_path: Path) -> None:
    model = "make_pipeline(parts.Log(), LogisticRegression(max_iter=1000)).fit(X, y)"
    refused = notebook(tmp_path, f'import parts\nintermodal.pack({model}, name="own", inputs=X[:2])')
    assert "holds parts.Log, which is not in trust" in refused.stderr
    assert not (tmp_path / "own").exists()
    done = notebook(tmp_path, f'import parts\nintermodal.pack({model}, name="own", inputs=X[:2], trust=["parts.Log"])')
    assert done.returncode == 0, done.stderr
    project = load(tmp_path / "own", machine(tmp_path))
    assert (tmp_path / "own" / "parts.py").read_text() == PARTS
    assert project.model.trust == ("parts.Log",)
    assert inspect(project, host=machine(tmp_path)).safe


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ('intermodal.pack(plain, name="Not A Label", inputs=X[:2])', 'name="not-a-label"'),
        ('intermodal.pack(object(), name="x", inputs=X[:2])', "has no predict method"),
        ('intermodal.pack(plain, name="x", inputs=X[:2, :3])', "refuses the inputs of 'row 1'"),
        ('intermodal.pack(plain, name="x", inputs=X[:0])', "no common rows"),
        ('intermodal.pack(plain, name="x", inputs=np.array([{}, {}]))', "no datatype stands for"),
        (
            "class Own:\n    def predict(self, X):\n        return X\n"
            'intermodal.pack(Own(), name="x", inputs=X[:2])',
            "classes of this notebook",
        ),
        (
            'import parts\nintermodal.pack(parts.Moody(), name="x", inputs=X[:2], trust=["parts.Moody"])',
            "does not answer like the live model",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_leaves_nothing(code: str, words: str, tmp_path: Path) -> None:
    done = notebook(tmp_path, code)
    assert done.returncode == 1
    assert words in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"parts.py", "notebook.py"}


def test_replaced_only_when_it_is_its_own_and_untouched(tmp_path: Path) -> None:
    code = 'intermodal.pack(plain, name="iris", inputs=X[:{n}])'
    folder = packed(tmp_path, code.format(n=2))
    (folder / "pylock.intermodal.toml").write_text("# the lock\n")
    packed(tmp_path, code.format(n=4))
    assert len(read_golden(folder / "golden.json").cases) == 5
    assert (folder / "pylock.intermodal.toml").read_text() == "# the lock\n"

    other = notebook(tmp_path, 'intermodal.pack(plain, name="other", inputs=X[:2], folder="iris")')
    assert "it holds iris, not other" in other.stderr

    (folder / "notes.txt").write_text("mine")
    assert "notes.txt is not of intermodal.pack" in notebook(tmp_path, code.format(n=2)).stderr
    (folder / "notes.txt").unlink()

    text = (folder / "intermodal.toml").read_text()
    (folder / "intermodal.toml").write_text(text.replace("0.1.0", "0.2.0"))
    assert "intermodal.toml was edited since" in notebook(tmp_path, code.format(n=2)).stderr
    assert len(read_golden(folder / "golden.json").cases) == 5, "nothing was replaced"


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "iris").mkdir()
    (tmp_path / "iris" / "thesis.txt").write_text("years of work")
    done = notebook(tmp_path, 'intermodal.pack(plain, name="iris", inputs=X[:2])')
    assert "exists and is not replaced" in done.stderr
    assert (tmp_path / "iris" / "thesis.txt").read_text() == "years of work"


def test_what_skops_does_not_trust_is_saved_by_joblib_with_a_warning(tmp_path: Path) -> None:
    model = "make_pipeline(FunctionTransformer(np.log1p), LogisticRegression(max_iter=1000)).fit(X, y)"
    done = notebook(tmp_path, f'intermodal.pack({model}, name="f", inputs=X[:2])')
    assert done.returncode == 0, done.stderr
    saved = {p.name for p in (tmp_path / "f").iterdir()} - {"intermodal.toml", "golden.json"}
    assert saved in ({"model.skops"}, {"model.joblib"})
    assert ("saved with joblib" in done.stderr) == (saved == {"model.joblib"})
    if saved == {"model.joblib"}:
        assert "notebook.py" in done.stderr, "the warning points at the notebook's own line"


def test_origins_carry_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "frommyhost-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frommyhost\nVersion: 1.0\n")
    (info / "direct_url.json").write_text(json.dumps({"url": "https://user:hunter2@example.org/x.whl?token=t"}))
    monkeypatch.syspath_prepend(tmp_path)
    found = not_from_an_index(["frommyhost", "numpy-is-not-here"])
    assert found == {"frommyhost": "https://example.org/x.whl"}
