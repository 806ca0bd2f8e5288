"""The estimators inside a symbolic object graph: their classes, attributes, versions, and which one answers.

Takes the root of a `Reading` (or of a skops schema, which gives the same values), hands on an `Estimator` tree by
convention of scikit-learn: an object of a class with fitted attributes, pipelines with `steps`, searches with
`best_estimator_`. Knows nothing of signatures.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from intermodal.rooms.inspect.card import Evidence, Finding
from intermodal.rooms.inspect.pickles.arrays import Array, as_array
from intermodal.rooms.inspect.pickles.values import Dict, Global, List, Obj, Value

MAX_OBJECTS = 500_000
SHOWN = 6
DATA_PACKAGES = frozenset(("builtins", "collections", "datetime", "numpy", "pandas", "scipy", "uuid"))


class Estimator(Struct, frozen=True):
    """One object of the graph seen as an estimator."""

    obj: Obj

    @property
    def module(self) -> str:
        """Where its class is defined."""
        return self.obj.callee.module if isinstance(self.obj.callee, Global) else ""

    @property
    def name(self) -> str:
        """Its class."""
        return self.obj.callee.name if isinstance(self.obj.callee, Global) else ""

    def get(self, attribute: str) -> Value:
        """The value of an attribute; None when it has none."""
        state = self.obj.state
        if isinstance(state, tuple) and state and isinstance(state[0], Dict):
            state = state[0]
        return state.names.get(attribute) if isinstance(state, Dict) else None

    def has(self, attribute: str) -> bool:
        """Whether the attribute is set, be it to None."""
        state = self.obj.state
        return isinstance(state, Dict) and attribute in state.names

    def array(self, attribute: str) -> Array | None:
        """An attribute that is an array."""
        return as_array(self.get(attribute))

    def integer(self, attribute: str) -> int | None:
        """An attribute that is a whole number."""
        value = self.get(attribute)
        return value if type(value) is int else None

    def estimator(self, attribute: str) -> Estimator | None:
        """An attribute that is an estimator."""
        return estimator_of(self.get(attribute))

    def steps(self) -> list[Estimator]:
        """A pipeline's steps that are estimators, in order; empty for everything else."""
        steps = self.get("steps")
        if self.name not in ("Pipeline",) or not isinstance(steps, List):
            return []
        found = [estimator_of(s[1]) for s in steps.kept if isinstance(s, tuple) and len(s) == 2]
        return [step for step in found if step is not None]


def estimator_of(value: Value) -> Estimator | None:
    """`value` as an estimator; None when it is no object with attributes."""
    if isinstance(value, Obj) and isinstance(value.callee, Global) and isinstance(value.state, (Dict, tuple)):
        return None if value.callee.module.split(".")[0] in DATA_PACKAGES else Estimator(value)
    return None


def first_of(model: Estimator) -> Estimator:
    """The estimator that sees the input first."""
    for _ in range(32):
        inner = model.steps()[0] if model.steps() else _searched(model)
        if inner is None:
            return model
        model = inner
    return model


def final_of(model: Estimator) -> Estimator:
    """The estimator that gives the answer."""
    for _ in range(32):
        inner = model.steps()[-1] if model.steps() else _searched(model)
        if inner is None:
            return model
        model = inner
    return model


def _searched(model: Estimator) -> Estimator | None:
    return model.estimator("best_estimator_") if model.has("best_estimator_") else None


def walk(root: Value) -> Iterator[Obj]:
    """Every object of the graph once, in the order in which it is written."""
    seen: set[int] = set()
    pending: list[Value] = [root]
    while pending and len(seen) < MAX_OBJECTS:
        value = pending.pop()
        if isinstance(value, (Obj, List, Dict, tuple)):
            if id(value) in seen:
                continue
            seen.add(id(value))
        if isinstance(value, Obj):
            yield value
            pending += [value.payload, value.kwargs, value.state, value.args]
        elif isinstance(value, List):
            pending += reversed(value.kept)
        elif isinstance(value, tuple):
            pending += reversed(value)
        elif isinstance(value, Dict):
            pending += [v for pair in reversed(value.others) for v in pair]
            pending += reversed(value.names.values())


def stamps(root: Value) -> tuple[dict[str, Evidence], list[Finding]]:
    """Versions that estimators carry (`_sklearn_version`), and findings where they are mixed or missing."""
    by_version: dict[str, list[str]] = {}
    unstamped: list[str] = []
    for obj in walk(root):
        estimator = estimator_of(obj)
        if estimator is None:
            continue
        version = estimator.get("_sklearn_version")
        if isinstance(version, str) and len(version) < 40 and version.isprintable():
            by_version.setdefault(version, []).append(estimator.name)
        elif estimator.module.startswith("sklearn.") and estimator.has("n_features_in_"):
            unstamped.append(estimator.name)
    findings = []
    if not by_version:
        if unstamped:
            findings.append(_missing(unstamped))
        return {}, findings
    version, names = max(by_version.items(), key=lambda item: len(item[1]))
    if len(by_version) > 1:
        told = ", ".join(f"{v} in {_listed(n)}" for v, n in sorted(by_version.items()))
        findings.append(
            Finding(
                "mixed-versions",
                "high",
                f"the model holds parts saved by different scikit-learn versions: {told}",
                next=f"load and save it once under one version, for example {max(by_version)}",
            )
        )
    plural = "estimator" if len(names) == 1 else "estimators"
    where = f"_sklearn_version '{version}' in {len(names)} {plural} ({_listed(names)})"
    return {"scikit-learn": Evidence(version, where)}, findings


def _listed(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:SHOWN]) + (", …" if len(unique) > SHOWN else "")


def _missing(names: list[str]) -> Finding:
    return Finding(
        "version-stamp-missing",
        "medium",
        f"no estimator says which scikit-learn saved it ({_listed(names)})",
        next='pin the version it was trained with: requirements = ["scikit-learn==…"]',
    )


def column_names(model: Estimator) -> list[str]:
    """The names of the columns the model was trained on; empty when it was trained on a plain array."""
    for candidate in (model, _searched(model), first_of(model)):
        names = candidate.array("feature_names_in_") if candidate is not None else None
        if names is not None:
            found = [name for name in names.objects if isinstance(name, str)]
            if found and len(found) == len(names.objects) and len(set(found)) == len(found):
                return found
    return []


def feature_count(model: Estimator) -> int:
    """How many columns the model's input has; -1 when it does not say."""
    for candidate in (model, _searched(model), first_of(model)):
        if candidate is None:
            continue
        count = candidate.integer("n_features_in_") or candidate.integer("_n_features_in")  # the latter: LightGBM
        if count is not None and 0 < count < 1 << 31:
            return count
    return -1
