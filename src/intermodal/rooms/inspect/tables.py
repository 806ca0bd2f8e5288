"""What scikit-learn's classes can do, as far as their saved state does not say it."""

from __future__ import annotations

from intermodal.rooms.inspect.estimators import Estimator

TEXT_VECTORIZERS = frozenset(("TfidfVectorizer", "CountVectorizer", "HashingVectorizer"))
CLUSTER_MODULES = ("sklearn.cluster.", "sklearn.mixture.")
TRANSFORMER_MODULES = (
    "sklearn.preprocessing.", "sklearn.decomposition.", "sklearn.feature_", "sklearn.compose._column",
    "sklearn.manifold.", "sklearn.impute.", "sklearn.random_projection", "sklearn.kernel_approx",
)  # fmt: skip
OUTLIER_DETECTORS = frozenset(
    ("IsolationForest", "OneClassSVM", "LocalOutlierFactor", "EllipticEnvelope", "SGDOneClassSVM")
)
FLOAT32_ATTRIBUTES = (
    "coef_", "mean_", "var_", "scale_", "center_", "min_", "data_min_", "components_", "cluster_centers_", "_fit_X",
    "statistics_", "theta_",
)  # fmt: skip

WITHOUT_PROBABILITIES = frozenset(
    (
        "LinearSVC", "Perceptron", "RidgeClassifier", "RidgeClassifierCV", "PassiveAggressiveClassifier",
        "NearestCentroid", "OutputCodeClassifier",
    )
)  # fmt: skip


def is_text_vectorizer(name: str) -> bool:
    """Whether a class turns strings into numbers."""
    return name in TEXT_VECTORIZERS


def can_predict(final: Estimator) -> bool:
    """Whether the class has `predict` at all."""
    return not final.module.startswith(TRANSFORMER_MODULES)


def can_give_probabilities(final: Estimator) -> bool:
    """Whether `predict_proba` exists for this very object, as scikit-learn decides it."""
    name = final.name
    if name in WITHOUT_PROBABILITIES:
        return False
    if name in ("SVC", "NuSVC"):
        return final.get("probability") is True
    if name == "SGDClassifier":
        return final.get("loss") in ("log_loss", "log", "modified_huber")
    if name == "VotingClassifier":
        return final.get("voting") == "soft"
    inner = final.estimator("estimator_") or final.estimator("final_estimator_") or final.estimator("estimator")
    if name in ("StackingClassifier", "OneVsRestClassifier", "SelfTrainingClassifier", "TunedThresholdClassifierCV",
                "FixedThresholdClassifier", "RFE", "RFECV") and inner is not None:  # fmt: skip
        return can_give_probabilities(inner)
    return name != "OneVsOneClassifier"
