"""Train a model on a table of text and numbers: model.joblib, and rows.csv to record golden cases from.

Needs scikit-learn and pandas:  pip install scikit-learn==1.9.1 pandas==3.0.6 && python train.py

The data is made up from a seed: passengers of a ferry, and whether they book again.
"""

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HERE = Path(__file__).parent
PORTS = ["Bergen", "Hirtshals", "Århus", "Göteborg"]
CABINS = ["seat", "inside", "outside", "suite"]
PRAISE = ["friendly crew", "good coffee", "quiet night", "on time", "clean cabin"]
BLAME = ["late departure", "loud engine", "cold food", "rough sea", "long queue"]


def passengers(count, seed):
    """A table of passengers and the answer to be learned."""
    random = np.random.default_rng(seed)
    mood = random.normal(size=count)
    cabin = random.integers(0, 4, count)
    table = pd.DataFrame(
        {
            "port": random.choice(PORTS, count),
            "cabin": [CABINS[n] for n in cabin],
            "age": random.integers(3, 90, count).astype(float),
            "fare": np.round(20 + 45 * cabin + random.gamma(2.0, 15.0, count), 2),
            "children": random.integers(0, 4, count),
            "remark": [", ".join(random.choice(PRAISE if m > 0 else BLAME, 2, replace=False)) for m in mood],
        }
    )
    table.loc[random.random(count) < 0.1, "age"] = np.nan
    again = mood + 0.4 * (table["children"] > 0) - 0.003 * table["fare"] + random.normal(0, 0.4, count) > 0
    return table, np.where(again, "books again", "stays away")


def main():
    """Train, save, and choose the rows whose answers shall stay."""
    table, answers = passengers(1200, seed=7)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = ColumnTransformer(
        [
            ("numbers", numbers, ["age", "fare", "children"]),
            ("categories", OneHotEncoder(handle_unknown="ignore"), ["port", "cabin"]),
            ("words", TfidfVectorizer(), "remark"),
        ]
    )
    model = Pipeline([("columns", columns), ("classifier", LogisticRegression(max_iter=1000))])
    model.fit(table[:900], answers[:900])
    print(f"accuracy on 300 passengers it has not seen: {model.score(table[900:], answers[900:]):.3f}")

    joblib.dump(model, HERE / "model.joblib")
    table[900:916].to_csv(HERE / "rows.csv", index=False)


if __name__ == "__main__":
    main()
