"""Run inside a training environment: writes one model file of every kind into the folder given as argument."""

import bz2
import pickle
import sys
import warnings
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import Birch, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA, FastICA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectPercentile
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    BayesianRidge,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PassiveAggressiveClassifier,
    Perceptron,
    RANSACRegressor,
    SGDClassifier,
    TheilSenRegressor,
)
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor, NearestCentroid, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM

warnings.simplefilter("ignore")
OUT = Path(sys.argv[1])


def frame() -> pd.DataFrame:
    """Ten rows with text, a category and two numbers."""
    return pd.DataFrame(
        {
            "review": [
                "good food",
                "bad service",
                "fine",
                "awful",
                "great",
                "good",
                "bad",
                "poor",
                "fine food",
                "great",
            ],
            "city": ["Oslo", "Rome", "Oslo", "Bonn", "Rome", "Oslo", "Bonn", "Rome", "Oslo", "Bonn"],
            "stars": [4, 1, 3, 1, 5, 4, 2, 1, 3, 5],
            "price": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 0.5],
        }
    )


class IsotonicByOne:
    """IsotonicRegression takes one column only."""

    def fit(self, rows, targets):
        """The fitted regression."""
        return IsotonicRegression().fit(rows[:, 0], targets)


def columns_model():
    """A pipeline that can only be fed a DataFrame."""
    parts = ColumnTransformer(
        [
            ("text", TfidfVectorizer(), "review"),
            ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["stars", "price"]),
        ]
    )
    return make_pipeline(parts, LogisticRegression()).fit(frame(), ["yes", "no"] * 5)


X, y = load_digits(return_X_y=True)
digits = make_pipeline(StandardScaler(), RandomForestClassifier(8, random_state=0)).fit(X, y)
joblib.dump(digits, OUT / "digits.joblib")
for suffix in ("z", "gz", "bz2", "lzma", "xz"):
    joblib.dump(digits, OUT / f"digits.joblib.{suffix}")
joblib.dump(digits, OUT / "digits.compressed", compress=3)
for protocol in range(6):
    (OUT / f"digits.{protocol}.pkl").write_bytes(pickle.dumps(digits, protocol))
(OUT / "digits.pkl.bz2").write_bytes(bz2.compress(pickle.dumps(digits)))
(OUT / "digits.cloudpickle").write_bytes(cloudpickle.dumps(digits))
skops.io.dump(digits, OUT / "digits.skops")
columns = columns_model()
joblib.dump(columns, OUT / "columns.joblib")
(OUT / "columns.pkl").write_bytes(pickle.dumps(columns))
skops.io.dump(columns, OUT / "columns.skops")
joblib.dump(
    make_pipeline(TfidfVectorizer(), SGDClassifier()).fit(frame()["review"], ["a", "b"] * 5), OUT / "text.joblib"
)

F, t = load_iris(return_X_y=True)
zoo = {
    "linear": LinearRegression().fit(F, F[:, :2]),
    "forest32": RandomForestRegressor(4).fit(F.astype("f4"), t),
    "knn": KNeighborsClassifier().fit(F, t),
    "svc": SVC().fit(F, t.astype(str)),
    "svc_proba": SVC(probability=True).fit(F, t.astype(str)),
    "linearsvc": LinearSVC().fit(F.astype("f4"), t),
    "sgd_log": SGDClassifier(loss="log_loss").fit(F, t),
    "hist": HistGradientBoostingClassifier(max_iter=3).fit(F, t),
    "kmeans": KMeans(3, n_init=1).fit(F),
    "grid": GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, scoring="f1_macro").fit(F, t),
    "log1p": make_pipeline(FunctionTransformer(np.log1p), LogisticRegression(max_iter=500)).fit(F, t),
    "named": LogisticRegression(max_iter=500).fit(pd.DataFrame(F, columns=list("abcd")), t),
}
F32 = F.astype("f4")
zoo |= {
    "float32": LinearRegression().fit(F32, t.astype("f4")),
    "targets": RandomForestClassifier(2).fit(F, np.stack([t, t > 0], axis=1)),
    "scaler": StandardScaler().fit(F),
    "codes": make_pipeline(
        ColumnTransformer([("size", OneHotEncoder(), ["size"])], remainder="passthrough"), LinearRegression()
    ).fit(pd.DataFrame({"size": [1, 2, 3] * 4, "weight": np.arange(12.0)}), np.arange(12.0)),
    "frame": frame(),
}
# not one pipeline anybody would build: fitted objects of every corner of the library
wide = [
    maker().fit(F, t)
    for maker in (
        AdaBoostClassifier, BaggingClassifier, ExtraTreesClassifier, GradientBoostingClassifier, GaussianNB,
        GaussianProcessClassifier, LinearDiscriminantAnalysis, MLPClassifier, NearestCentroid, PCA, FastICA,
        PowerTransformer, QuantileTransformer,
        SplineTransformer, KBinsDiscretizer, IsolationForest, OneClassSVM, GaussianMixture, Birch,
        IsotonicByOne, SelectPercentile, RadiusNeighborsClassifier, LocalOutlierFactor, BayesianRidge, KernelRidge,
        LassoCV, TheilSenRegressor, PLSRegression, CalibratedClassifierCV, DummyClassifier, SVR, KNNImputer, Nystroem,
        HistGradientBoostingRegressor, RANSACRegressor, LogisticRegressionCV, Perceptron, PassiveAggressiveClassifier,
    )
]  # fmt: skip
zoo["wide"] = wide
for name, model in zoo.items():
    joblib.dump(model, OUT / f"{name}.joblib")
    (OUT / f"{name}.pkl").write_bytes(pickle.dumps(model))


def twice(values):
    """A function of the training script, which cloudpickle takes along as code."""
    return values * 2


(OUT / "code.cloudpickle").write_bytes(
    cloudpickle.dumps(make_pipeline(FunctionTransformer(twice), LinearRegression()).fit(F, t))
)
joblib.dump(make_pipeline(FunctionTransformer(twice), LinearRegression()).fit(F, t), OUT / "main.joblib")
