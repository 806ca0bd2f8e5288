"""What pickle, joblib, cloudpickle and skops have in common: an object graph of scikit-learn's conventions.

Takes a root value, the names used and the findings, hands on `Found` with framework, versions, requirements and
signature. A root that is no estimator is an error, unless the file is refused anyway.
"""

from __future__ import annotations

from collections.abc import Iterable

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.card import Evidence, Finding
from intermodal.rooms.inspect.estimators import Estimator, estimator_of, final_of, stamps
from intermodal.rooms.inspect.formats.interface import Found, Opened
from intermodal.rooms.inspect.pickles.explain import escape, literal
from intermodal.rooms.inspect.pickles.values import Dict, Global, List, Obj, Value
from intermodal.rooms.inspect.signature import sklearn_signature
from intermodal.rooms.inspect.tables import can_predict
from intermodal_server.contract import Signature

FRAMEWORKS = {"sklearn": "scikit-learn", "xgboost": "xgboost", "lightgbm": "lightgbm"}
OTHERS = {"pandas": "pandas", "skops": "skops"}
HINT = Finding(
    "code-capable-format",
    "info",
    "a pickle can run code when it is opened; everything this one names is on the allow-list or trusted",
    next="skops.io.dump(model, 'model.skops') or ONNX hold data only",
)


def describe(
    opened: Opened,
    format_name: str,
    loader: str,
    root: Value,
    names: Iterable[Global],
    findings: Iterable[Finding],
    *,
    requires: tuple[str, ...] = (),
    python: str = "",
) -> Found:
    """The found model; `findings` are reasons not to load it."""
    names, findings = tuple(names), tuple(findings)
    safe = not findings
    model = estimator_of(root)
    if model is None and safe:
        assert opened.path is not None
        raise _not_a_model(opened.path.name, root)
    versions: dict[str, Evidence] = {}
    signature, call, framework = Signature((), ()), "array", ""
    notes: list[Finding] = [HINT] if safe and format_name != "skops" else []
    if model is not None:
        versions, stamp_findings = stamps(root)
        notes = stamp_findings + notes
        signature, call = sklearn_signature(model, opened.golden)
        framework = _framework(model, names)
        if not can_predict(final_of(model)):
            notes.append(_no_predict(final_of(model).name))
    versions |= _numpy_major(names)
    needed = {FRAMEWORKS[top] for name in names if (top := name.module.split(".")[0]) in FRAMEWORKS}
    needed |= {OTHERS[top] for name in names if (top := name.module.split(".")[0]) in OTHERS}
    if needed & {"xgboost", "lightgbm"}:
        needed.add("scikit-learn")  # what their estimators are built upon
    needed |= {"numpy", *requires} | ({"pandas"} if call == "columns" else set())
    if loader == "joblib" and "scikit-learn" not in needed:
        needed.add("joblib")
    return Found(
        format=format_name,
        framework=framework,
        backend="sklearn",
        loader=loader,
        call=call,
        signature=signature,
        findings=(*findings, *notes),
        safe=safe,
        versions=versions,
        requires=tuple(sorted(needed)),
        python=python,
        imports=tuple(sorted({escape(name.qualified) for name in names})),
    )


def _no_predict(name: str) -> Finding:
    message = f"the last step is {escape(name)}, which has no predict: there is nothing to serve"
    advice = 'end the pipeline in a model, or write a class that calls transform: predictor = "predictor:Name"'
    return Finding("no-predict", "high", message, next=advice)


def _framework(model: Estimator, names: tuple[Global, ...]) -> str:
    for candidate in (final_of(model), model):
        framework = FRAMEWORKS.get(candidate.module.split(".")[0])
        if framework:
            return framework
    found = [FRAMEWORKS[top] for name in names if (top := name.module.split(".")[0]) in FRAMEWORKS]
    return found[0] if found else ""


def _numpy_major(names: tuple[Global, ...]) -> dict[str, Evidence]:
    """NumPy 2 writes `numpy._core` where NumPy 1 wrote `numpy.core`; only that is known."""
    for name in names:
        if name.module.startswith("numpy._core."):
            return {"numpy": Evidence("2", f"module path {escape(name.module)}", exact=False)}
    for name in names:
        if name.module.startswith("numpy.core."):
            return {"numpy": Evidence("1", f"module path {escape(name.module)}", exact=False)}
    return {}


def _not_a_model(name: str, root: Value) -> ArtifactError:
    if isinstance(root, Dict):
        what = f"a dictionary with {root.total} entries ({', '.join(escape(k, 30) for k in list(root.names)[:5])})"
    elif isinstance(root, (List, tuple)):
        what = f"a sequence of {root.total if isinstance(root, List) else len(root)}"
    elif isinstance(root, Obj):
        what = f"an object without attributes: {literal(root)}"
    else:
        what = literal(root)
    return ArtifactError(
        f"{name} is a pickle, but holds no model",
        found=what,
        next='save the estimator itself, or write a class with load and predict: predictor = "predictor:Name"',
    )
