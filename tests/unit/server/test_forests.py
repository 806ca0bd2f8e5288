"""Forests asked tree by tree answer to the last bit what they answer by themselves; others are left alone."""

from __future__ import annotations

import subprocess

import pytest
from support.serving import CODE_DIR, models_python

HEAD = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from sklearn import ensemble
from sklearn.ensemble import *
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from intermodal_server.worker.backends.forests import quicken
from intermodal_server.worker.backends.sklearn import estimators_in
chance = np.random.default_rng(0)
x = chance.normal(size=(300, 7))
y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int) + (x[:, 2] > 1)
asked = chance.normal(size=(500, 7)) * 3
"""

SAME = """
texts = np.array(["low", "high", "none"])[y]
made = {
    "classes": RandomForestClassifier(30, random_state=0).fit(x, y),
    "texts": ExtraTreesClassifier(30, random_state=0, bootstrap=True, class_weight="balanced").fit(x, texts),
    "one class": RandomForestClassifier(3).fit(x, np.zeros(300)),
    "numbers": RandomForestRegressor(30, random_state=0, criterion="absolute_error").fit(x, x[:, 0] * 100),
    "counts": ExtraTreesRegressor(30, random_state=0).fit(x, y),
    "in a pipeline": make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(x, y),
    "of several": VotingRegressor([("a", RandomForestRegressor(9)), ("b", ExtraTreesRegressor(9))]).fit(x, y),
}
for name, model in made.items():
    asks = [getattr(model, each) for each in ("predict", "predict_proba") if hasattr(model, each)]
    before = [ask(part) for ask in asks for part in (asked, asked[:1], asked.astype("f4"))]
    fitted = [one for one in estimators_in(model) if hasattr(one, "estimators_")]
    forests = [one for one in fitted if type(one).__module__ == "sklearn.ensemble._forest"]
    assert quicken(estimators_in(model)) == len(forests) > 0, name
    for forest in forests:
        for tree in forest.estimators_:
            tree.predict_proba = tree.predict = None  # whoever asks it by joblib fails
    asks = [getattr(model, each) for each in ("predict", "predict_proba") if hasattr(model, each)]
    after = [ask(part) for ask in asks for part in (asked, asked[:1], asked.astype("f4"))]
    for one, other in zip(before, after):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name
print("all right")
"""

ALONE = """
class Own(RandomForestClassifier):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]

class Changed(RandomForestRegressor):
    pass

lies = RandomForestClassifier(5, random_state=0).fit(x, y)
lies.estimators_[0].predict_proba = lambda X, check_input=True: np.ones((len(X), 3))
lost = RandomForestClassifier(5, random_state=0).fit(x, y)
del lost.estimators_
left = {
    "derived": Own(5).fit(x, y),
    "derived without a change": Changed(5).fit(x, y),
    "several targets": RandomForestRegressor(5).fit(x, np.stack([y, y], 1)),
    "of another kind": IsolationForest(n_estimators=5).fit(x),
    "boosted": GradientBoostingRegressor(n_estimators=3).fit(x, y),
    "a tree that answers otherwise": lies,
    "not whole": lost,
    "not fitted": RandomForestClassifier(5),
}
for name, model in left.items():
    assert quicken([model]) == 0 and not {"predict", "predict_proba"} & set(vars(model)), name
print("all right")
"""

REFUSED = """
import json, os
forest = RandomForestClassifier(5, random_state=0).fit(x, y)
def told(rows):
    try:
        forest.predict(rows)
    except ValueError as error:
        return str(error)
wrong = [np.full((1, 7), np.inf), np.zeros((1, 6)), np.zeros(7), [["a"] * 7]]
before = [told(rows) for rows in wrong]
assert quicken([forest]) == 1 and None not in before
assert [told(rows) for rows in wrong] == before
print("all right")
"""


@pytest.mark.parametrize("code", [SAME, ALONE, REFUSED], ids=["the same", "left alone", "refused alike"])
def test_forests(code: str) -> None:
    command = [str(models_python()), "-I", "-W", "ignore", "-c", HEAD + code, str(CODE_DIR.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "all right\n", done.stderr
