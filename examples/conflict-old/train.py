"""Train a forest on the wine data under scikit-learn 1.3.2: model.joblib, and rows.npy to record golden cases from.

pip install scikit-learn==1.3.2 "numpy==1.26.4" && python train.py
"""

from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

HERE = Path(__file__).parent


def main():
    """Train, save, and choose the rows whose answers shall stay."""
    rows, kinds = load_wine(return_X_y=True)
    model = RandomForestClassifier(n_estimators=12, max_depth=4, random_state=0).fit(rows[::2], kinds[::2])
    print(f"accuracy on {len(rows[1::2])} wines it has not seen: {model.score(rows[1::2], kinds[1::2]):.3f}")
    joblib.dump(model, HERE / "model.joblib", compress=3)
    np.save(HERE / "rows.npy", rows[1::12])


if __name__ == "__main__":
    main()
