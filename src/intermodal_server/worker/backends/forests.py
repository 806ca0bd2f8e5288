"""Forests of scikit-learn, asked tree by tree: the answers of the model itself, without a job for every tree.

Takes a fitted model, gives the forests in it another way to the same numbers. A forest hands each of its trees to
joblib as a job of its own, with scikit-learn's settings and the filters of warnings set anew for each: of a forest of
100 trees that is nine tenths of the time for one row (figures: docs/decisions/0014-forests-tree-by-tree.md).

Rules, in order:
1. Only the four forests whose answer is the mean of their trees, for one target, and no class derived from them.
2. What the forest does to its input and refuses of it stays its own business: its own check is called.
3. A forest is asked both ways on rows made of its trees' own thresholds before anybody else asks. What is not equal to
   the last bit, or raises, leaves it as it was.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterable
from typing import Any, Callable

MODULE = "sklearn.ensemble._forest"
CLASSIFIERS = ("RandomForestClassifier", "ExtraTreesClassifier")
REGRESSORS = ("RandomForestRegressor", "ExtraTreesRegressor")
TRIED_ROWS = 64
TRIED_TREES = 200  # whose thresholds those rows are made of


def quicken(estimators: Iterable[Any]) -> int:
    """Give every forest among `estimators` the quick way where it is the same; how many have it now."""
    if MODULE not in sys.modules:
        return 0
    return sum(_quickened(one) for one in estimators if type(one).__module__ == MODULE)


def _quickened(forest: Any) -> bool:
    method = "predict_proba" if type(forest).__name__ in CLASSIFIERS else "predict"
    try:
        if type(forest).__name__ not in CLASSIFIERS + REGRESSORS or forest.n_outputs_ != 1:
            return False
        ways = [_means(forest)] if method == "predict" else [_probabilities(forest, each) for each in (False, True)]
        own, rows = getattr(forest, method), _rows(forest)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as names of columns that these rows do not have
            quick = next((way for way in ways if _same(own, way, rows)), None)
        if quick is None:
            return False
        setattr(forest, method, quick)
    except Exception:  # another scikit-learn than those we know; the forest answers as it always did
        return False
    return True


def _probabilities(forest: Any, counts: bool) -> Callable[[Any], Any]:
    """Of a forest whose trees hold probabilities, or counts, as they did before scikit-learn 1.4."""
    import numpy

    trees, classes = [one.tree_ for one in forest.estimators_], int(forest.n_classes_)

    def predict_proba(X: Any) -> Any:  # noqa: N803 - as scikit-learn names it
        """Probabilities of the classes: (rows, classes), FP64."""
        rows = forest._validate_X_predict(X)
        total = numpy.zeros((rows.shape[0], classes), dtype=numpy.float64)
        for tree in trees:
            found = tree.predict(rows)[:, :classes]
            if counts:
                sums = found.sum(axis=1)[:, numpy.newaxis]
                sums[sums == 0.0] = 1.0
                found /= sums
            total += found
        total /= len(trees)
        return total

    return predict_proba


def _means(forest: Any) -> Callable[[Any], Any]:
    import numpy

    trees = [one.tree_ for one in forest.estimators_]

    def predict(X: Any) -> Any:  # noqa: N803 - as scikit-learn names it
        """The mean of the trees: (rows,), FP64."""
        rows = forest._validate_X_predict(X)
        total = numpy.zeros(rows.shape[0], dtype=numpy.float64)
        for tree in trees:
            total += tree.predict(rows)[:, 0]
        total /= len(trees)
        return total

    return predict


def _rows(forest: Any) -> Any:
    """Rows that come by many leaves: each value is a threshold of its feature, or a little beside one."""
    import numpy

    width, chance = int(forest.n_features_in_), random.Random(0)  # noqa: S311 - no secret
    known: list[list[float]] = [[] for _ in range(width)]
    for one in forest.estimators_[:TRIED_TREES]:
        for feature, threshold in zip(one.tree_.feature.tolist(), one.tree_.threshold.tolist()):
            if feature >= 0:
                known[feature].append(threshold)
    rows = numpy.zeros((TRIED_ROWS, width), dtype=numpy.float32)
    for feature, thresholds in enumerate(known):
        if thresholds:
            rows[:, feature] = [chance.choice(thresholds) + chance.choice((-0.5, 0.0, 0.5)) for _ in range(TRIED_ROWS)]
    return rows


def _same(own: Callable[[Any], Any], quick: Callable[[Any], Any], rows: Any) -> bool:
    """Whether both answer alike to the last bit, all rows at once and one by one."""
    for part in (rows, rows[:1], rows[1:2]):
        one, other = own(part), quick(part)
        if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.tobytes() != other.tobytes():
            return False
    return True
