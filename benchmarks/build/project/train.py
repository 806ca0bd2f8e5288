"""Train the forest twice: `train.py FOLDER` writes model.joblib, retrained.joblib (6 MB each) and a few inputs."""

import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

digits = load_digits()
for seed, name in enumerate(("model.joblib", "retrained.joblib")):
    forest = RandomForestClassifier(n_estimators=100, random_state=seed).fit(digits.data, digits.target)
    joblib.dump(forest, Path(sys.argv[1]) / name)
np.savez(Path(sys.argv[1]) / "rows.npz", image=digits.data[:16])
