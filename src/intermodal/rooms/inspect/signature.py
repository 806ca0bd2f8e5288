"""The signature of a scikit-learn model, from its symbolic object graph and its golden cases.

Takes the estimator tree and, where there are any, golden cases; hands on inputs, outputs and the way of calling. The
rules, in order:

1. A model whose first step is a text vectorizer takes one input `text`, BYTES `[-1]`.
2. A model trained on named columns takes one input per column, shape `[-1]`. Datatypes come from the golden request;
   else columns of encoders with number categories take their type, columns of other encoders and of vectorizers are
   BYTES, the rest FP64, and all of these are marked `assumed`.
3. Every other model takes one input `X` `[-1, n]`, FP64, or FP32 where its first estimator kept float32 arrays.
4. A classifier answers `label` in the datatype of `classes_` and, where its class has `predict_proba`,
   `probabilities` FP64 `[-1, classes]` (`probabilities_0` … for several targets); everything else with `predict`
   answers `prediction`; a transformer answers nothing.
5. Where golden cases exist, their names and datatypes are the truth for outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intermodal.golden.cases import GoldenFile
from intermodal.rooms.inspect.estimators import Estimator, column_names, estimator_of, feature_count, final_of, first_of
from intermodal.rooms.inspect.pickles.arrays import as_array
from intermodal.rooms.inspect.pickles.judge import members_of
from intermodal.rooms.inspect.pickles.values import List, Value
from intermodal.rooms.inspect.tables import (
    CLUSTER_MODULES,
    FLOAT32_ATTRIBUTES,
    OUTLIER_DETECTORS,
    can_give_probabilities,
    can_predict,
    is_text_vectorizer,
)
from intermodal_server.contract import DATATYPES, Signature, TensorSpec

MAX_COLUMNS = 10_000


def sklearn_signature(model: Estimator, golden: GoldenFile | None) -> tuple[Signature, str]:
    """The signature and how the model is called ("array" or "columns")."""
    names = column_names(model)
    recorded = recorded_tensors(golden, "request", "inputs")
    inputs: tuple[TensorSpec, ...]
    if is_text_vectorizer(first_of(model).name):
        inputs, call = (TensorSpec("text", "BYTES", (-1,)),), "array"
    elif names and len(names) <= MAX_COLUMNS:
        guesses = _column_types(first_of(model))
        inputs, call = tuple(_column(name, recorded, guesses) for name in names), "columns"
    else:
        count = feature_count(model)
        datatype = recorded["X"].datatype if "X" in recorded else _float_type(first_of(model))
        if count == -1 and "X" in recorded and len(recorded["X"].shape) == 2:
            count = recorded["X"].shape[1]
        inputs, call = (TensorSpec("X", datatype, (-1, count)),), "array"
    outputs = _outputs(final_of(model), model, inputs)
    answered = recorded_tensors(golden, "response", "outputs")
    if answered:
        known = {spec.name: spec for spec in outputs}
        outputs = tuple(known[n] if _agrees(known.get(n), spec) else spec for n, spec in answered.items())
    return Signature(inputs, outputs), call


def recorded_tensors(golden: GoldenFile | None, body: str, key: str) -> dict[str, TensorSpec]:
    """The tensors of the first golden case, with the first axis open; {} without cases."""
    if golden is None or not golden.cases:
        return {}
    document: Mapping[str, Any] = getattr(golden.cases[0], body)
    found = {}
    for tensor in document.get(key, ()):
        if isinstance(tensor, dict) and tensor.get("datatype") in DATATYPES and isinstance(tensor.get("name"), str):
            shape = tensor.get("shape") or [-1]
            if tensor["name"] and all(type(n) is int and n >= 0 for n in shape[1:]):
                found[tensor["name"]] = TensorSpec(tensor["name"], tensor["datatype"], (-1, *shape[1:]))
    return found


def _agrees(known: TensorSpec | None, recorded: TensorSpec) -> bool:
    return known is not None and known.datatype == recorded.datatype and len(known.shape) == len(recorded.shape)


def _column(name: str, recorded: Mapping[str, TensorSpec], guesses: Mapping[str, str]) -> TensorSpec:
    if name in recorded:
        return TensorSpec(name, recorded[name].datatype, (-1,))
    return TensorSpec(name, guesses.get(name, "FP64"), (-1,), assumed=True)


def _column_types(first: Estimator) -> dict[str, str]:
    """Datatypes of columns as the parts of a ColumnTransformer suggest them; missing means a number."""
    if first.name == "ColumnTransformer":
        return _transformer_types(first)
    names = column_names(first)
    types: dict[str, str] = {}
    _encoder_types(first, names, types)
    return types


def _transformer_types(transformer: Estimator) -> dict[str, str]:
    all_names = column_names(transformer)
    types: dict[str, str] = {}
    for part in members_of(transformer.get("transformers_")):
        if isinstance(part, tuple) and len(part) == 3:
            inner = estimator_of(part[1])
            columns = _selected(part[2], all_names)
            if inner is not None:
                _encoder_types(inner, columns, types)
    return types


def _selected(columns: Value, all_names: list[str]) -> list[str]:
    """The names a ColumnTransformer's column selection means."""
    if isinstance(columns, str):
        return [columns]
    chosen = (
        columns.kept if isinstance(columns, List) else (found.objects if (found := as_array(columns)) else [columns])
    )
    names = []
    for one in chosen:
        if isinstance(one, str):
            names.append(one)
        elif type(one) is int and -len(all_names) <= one < len(all_names):
            names.append(all_names[one])
    return names


def _encoder_types(part: Estimator, columns: list[str], types: dict[str, str]) -> None:
    steps = [part, *part.steps()] if part.steps() else [part]
    for step in steps:
        if is_text_vectorizer(step.name):
            types.update(dict.fromkeys(columns, "BYTES"))
            return
        categories = step.get("categories_")
        if categories is not None:
            for name, values in zip(columns, members_of(categories), strict=False):
                array = as_array(values)
                numeric = array is not None and array.kind in "iuf" and array.datatype
                types[name] = array.datatype if array is not None and numeric else "BYTES"
            for name in columns:
                types.setdefault(name, "BYTES")
            return
        statistics = step.array("statistics_")
        if statistics is not None and statistics.kind in "OUS":
            types.update(dict.fromkeys(columns, "BYTES"))


def _float_type(first: Estimator) -> str:
    arrays = [first.array(attribute) for attribute in FLOAT32_ATTRIBUTES]
    kept = [array for array in arrays if array is not None and array.kind == "f"]
    return "FP32" if kept and all(array.item_bytes == 4 for array in kept) else "FP64"


def _label(classes: Value) -> tuple[str, int]:
    """Datatype and number of the classes."""
    array = as_array(classes)
    if array is None:
        return "INT64", -1
    return array.datatype or "BYTES", array.shape[0] if array.shape else -1


def _outputs(final: Estimator, model: Estimator, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    coefficients = final.array("coef_")
    in_float32 = coefficients is not None and (coefficients.kind, coefficients.item_bytes) == ("f", 4)
    float_type = "FP32" if in_float32 and inputs[0].datatype == "FP32" else "FP64"
    classes = final.get("classes_") if final.has("classes_") else model.get("classes_")
    if classes is None and final.name.startswith("LGBM"):
        classes = final.get("_classes")
    if classes is not None:
        return _classifier_outputs(final, classes, float_type)
    if final.module.startswith("xgboost."):
        return _xgboost_outputs(final)
    if final.name in OUTLIER_DETECTORS or final.module.startswith(CLUSTER_MODULES):
        datatype = "INT32" if final.name.endswith("KMeans") else "INT64"
        return (TensorSpec("prediction", datatype, (-1,)),)
    if not can_predict(final):
        return ()
    return (TensorSpec("prediction", float_type, _prediction_shape(final)),)


def _xgboost_outputs(final: Estimator) -> tuple[TensorSpec, ...]:
    # XGBoost encodes classes as 0 … n-1 and computes in float32
    if not final.name.endswith("Classifier"):
        return (TensorSpec("prediction", "FP32", (-1,)),)
    count = final.integer("n_classes_") or -1
    return TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, count))


def _classifier_outputs(final: Estimator, classes: Value, float_type: str) -> tuple[TensorSpec, ...]:
    gives_probabilities = can_give_probabilities(final)
    if isinstance(classes, List):  # several targets at once
        targets = [_label(one) for one in classes.kept]
        label = TensorSpec("label", targets[0][0] if targets else "INT64", (-1, len(targets)))
        each = [TensorSpec(f"probabilities_{i}", float_type, (-1, count)) for i, (_, count) in enumerate(targets)]
        return (label, *each) if gives_probabilities else (label,)
    datatype, count = _label(classes)
    outputs = (TensorSpec("label", datatype, (-1,)), TensorSpec("probabilities", float_type, (-1, count)))
    return outputs if gives_probabilities else outputs[:1]


def _prediction_shape(final: Estimator, depth: int = 8) -> tuple[int, ...]:
    """`[-1]` for one target, `[-1, k]` for a matrix of targets."""
    inner = final.estimator("regressor_")  # TransformedTargetRegressor
    if inner is not None and depth:
        return (-1,) if final.integer("_training_dim") == 1 else _prediction_shape(inner, depth - 1)
    count = final.integer("n_outputs_")
    if count is not None:
        return (-1, count) if count > 1 else (-1,)
    parts = final.get("estimators_")
    if final.name in ("MultiOutputRegressor", "RegressorChain") and isinstance(parts, List):
        return (-1, parts.total)
    coefficients, learned = final.array("coef_"), final.array("_y")
    if final.get("_predict_1d") is not True:  # PLSRegression trained on a vector
        if coefficients is not None and len(coefficients.shape) == 2:
            return (-1, coefficients.shape[0])
        if learned is not None and len(learned.shape) == 2:  # nearest neighbours
            return (-1, learned.shape[1])
    return (-1,)
