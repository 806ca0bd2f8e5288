"""scikit-learn and everything with its API, saved by joblib, pickle, cloudpickle or skops.

Calls: `array` gives the one input as it is; `columns` builds a DataFrame with the signature's columns in their order,
strings decoded. Classifiers answer `label` and, where they can, `probabilities`; all others `prediction`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable

from intermodal_server.tensors import Tensor, TensorError, decode
from intermodal_server.worker.arrays import from_numpy, to_numpy
from intermodal_server.worker.backends.forests import quicken
from intermodal_server.worker.backends.interface import Load, ordered

MAX_VISITED = 100_000


def _load_artifact(load: Load) -> Any:
    path, loader = load.artifact_path, load.settings.loader
    if loader == "joblib":
        import joblib

        return joblib.load(path)
    if loader == "skops":
        import skops.io

        # the file is the locked one, and every type in it was judged before it was locked; skops' own list, which
        # differs from version to version, has nothing to add
        return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    if loader in ("pickle", "cloudpickle"):
        with open(path, "rb") as file:  # verified against the lock, and inspected before it got there
            return pickle.load(file)  # noqa: S301
    raise ValueError(f"no loader {loader!r} for scikit-learn")


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value
    elif getattr(getattr(value, "dtype", None), "kind", "") == "O":
        yield from value.ravel().tolist()
    elif hasattr(value, "get_params"):
        yield from vars(value).values()


def estimators_in(model: Any) -> list[Any]:
    """`model` and every estimator within it, each once."""
    found: list[Any] = []
    seen: set[int] = set()
    stack = [model]
    while stack and len(seen) < MAX_VISITED:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if hasattr(value, "get_params"):
            found.append(value)
        stack.extend(part for part in _parts(value) if not isinstance(part, (str, bytes, int, float, bool, type(None))))
    return found


def tame_jobs(estimators: Iterable[Any]) -> list[str]:
    """Set `n_jobs` to 1 in every one of `estimators`; the classes where it was another number.

    One request at a time reaches a worker, so a pool of processes for a few rows costs more than it brings and fights
    the other workers (facts: 62 ms instead of 17 ms for one row). Predictions do not change.
    """
    changed = [one for one in estimators if getattr(one, "n_jobs", None) not in (None, 1)]
    for one in changed:
        one.n_jobs = 1
    return sorted({type(one).__name__ for one in changed})


def _is_classifier(model: Any) -> bool:
    try:
        from sklearn.base import is_classifier

        return bool(is_classifier(model))
    except Exception:  # not scikit-learn itself, and without the tags that newer versions ask for
        return hasattr(model, "predict_proba")


class Overheard:
    """What `predict_proba` answers while `predict` runs: forests and many others predict by asking it.

    So that the model works once for labels and probabilities, not twice. Nothing is guessed: where `predict` does not
    ask, or asks for other rows, nothing was overheard, and `predict_proba` has to be asked.
    """

    def __init__(self, model: Any) -> None:
        last = model
        while True:
            if getattr(last, "steps", None):  # a pipeline ends in the one that answers
                last = last.steps[-1][1]
            elif hasattr(last, "best_estimator_"):
                last = last.best_estimator_
            else:
                break
        self._predict = model.predict
        self._ask = last.predict_proba
        self._answers: list[Any] | None = None  # a list while somebody listens
        last.predict_proba = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of `predict_proba`."""
        answer = self._ask(*args, **kwargs)
        if self._answers is not None:
            self._answers.append(answer)
        return answer

    def predict(self, rows: Any) -> tuple[Any, Any]:
        """What the model predicts, and its probabilities when they came by on the way, else None."""
        heard: list[Any] = []
        self._answers = heard
        try:
            answer = self._predict(rows)
        finally:
            self._answers = None
        fits = len(heard) == 1 and getattr(heard[0], "shape", (None,))[0] == len(answer)
        return answer, heard[0] if fits else None


def _predict_of(model: Any, probabilities: bool) -> Callable[[Any], tuple[Any, Any]]:
    """`predict` of a model, which also hands on the probabilities when they come for nothing."""
    if probabilities:
        try:
            return Overheard(model).predict
        except Exception:  # noqa: S110 - an odd class of somebody's own; it is asked twice
            pass
    return lambda rows: (model.predict(rows), None)


def refused_values(error: ValueError) -> str:
    """What scikit-learn's own check of the input found in it, worded for the client; "" for every other error.

    Such a request is the client's mistake: counted as the model's, it would speak against a rollout.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_globals.get("__name__") != "sklearn.utils.validation":
        return ""
    text = str(error)
    if "contains NaN" in text:
        return "the input holds NaN (null), which this model does not take"
    if "infinity or a value too large" in text:
        return "the input holds infinity or a number too large for this model"
    return ""


class SklearnBackend:
    """Runs `predict`, and `predict_proba` of classifiers."""

    def load(self, load: Load) -> None:
        """Load the artifact and find out what it can answer."""
        self._settings = load.settings
        self._log = load.log
        self._model = _load_artifact(load)
        estimators = estimators_in(self._model)
        tamed = tame_jobs(estimators)
        if tamed:
            load.log.warning("n_jobs was set to 1: the server's own workers use the cores", estimators=tamed)
        quick = quicken(estimators)
        if quick:
            load.log.info("forests are asked tree by tree, which gives the same answers sooner", forests=quick)
        self._classifies = _is_classifier(self._model)
        self._probabilities = self._classifies and hasattr(self._model, "predict_proba")
        if not hasattr(self._model, "predict"):
            raise TypeError(f"{type(self._model).__name__} has no predict method")
        self._predict = _predict_of(self._model, self._probabilities)
        if load.settings.call == "columns":
            import pandas

            self._pandas = pandas

    def _frame(self, tensors: Sequence[Tensor]) -> Any:
        columns = {}
        for tensor in tensors:
            if tensor.datatype == "BYTES":
                try:
                    values = decode(tensor.data, "BYTES", tensor.name)
                    columns[tensor.name] = [value if value is None else value.decode() for value in values]
                except UnicodeDecodeError:
                    raise TensorError(f"input {tensor.name!r} is not UTF-8 text") from None
            else:
                columns[tensor.name] = to_numpy(tensor).reshape(-1)
        if len({len(values) for values in columns.values()}) > 1:
            raise TensorError("the inputs have different numbers of rows")
        return self._pandas.DataFrame(columns)

    def predict(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Labels and probabilities of classifiers, predictions of everything else."""
        names = [spec.name for spec in self._settings.signature.inputs]
        if self._settings.call == "columns":
            rows = self._frame(ordered(tensors, names))
        else:
            rows = to_numpy(ordered(tensors, names)[0])
        try:
            answer, probabilities = self._predict(rows)
        except ValueError as error:
            told = refused_values(error)
            if told:
                raise TensorError(told) from error
            raise
        if not self._classifies:
            return [from_numpy("prediction", answer)]
        outputs = [from_numpy("label", answer)]
        if self._probabilities:
            try:
                if probabilities is None:
                    probabilities = self._model.predict_proba(rows)
            except (AttributeError, NotImplementedError) as error:
                self._probabilities = False  # it promised what it cannot do; the same for every request
                self._log.warning("predict_proba does not work; labels only", reason=str(error))
                return outputs
            if isinstance(probabilities, list):  # one array per target
                outputs += [from_numpy(f"probabilities_{i}", part) for i, part in enumerate(probabilities)]
            else:
                outputs.append(from_numpy("probabilities", probabilities))
        return outputs
