"""Train the forest twice: `train.py FOLDER` writes model.joblib and retrained.joblib (about 6 MB each)."""

import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

digits = load_digits()
for seed, name in enumerate(("model.joblib", "retrained.joblib")):
    forest = RandomForestClassifier(n_estimators=100, random_state=seed).fit(digits.data, digits.target)
    joblib.dump(forest, Path(sys.argv[1]) / name)
