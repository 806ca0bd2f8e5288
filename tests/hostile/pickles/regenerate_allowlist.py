"""Write the scikit-learn and NumPy lines of the pickle allow-list from installed packages.

    python tests/hostile/pickles/regenerate_allowlist.py            # all versions, environments made on first use
    python tests/hostile/pickles/regenerate_allowlist.py --collect  # what one environment offers, as lines on stdout

The hand-written part of `allowlist.txt` (before the line MARKER) stays. A class gets in when it is defined in a module
below `sklearn` that is none of EXCLUDED, and is no exception, display or test helper. The reasons for EXCLUDED: modules
that read files, fetch data, run code, or exist for tests. Functions get in as "value" (never called by a pickle) from
the few modules whose functions are used as parameters of estimators.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
TARGET = CHECKOUT / "src/intermodal/rooms/inspect/pickles/allowlist.txt"
MARKER = "# --- generated below this line by tests/hostile/pickles/regenerate_allowlist.py ---"
ENVIRONMENTS = (
    ("scikit-learn==1.3.2", "numpy==1.26.4", "pandas==2.2.3", "cloudpickle==3.1.1", "skops==0.11.0"),
    ("scikit-learn==1.4.2", "numpy==1.26.4"),
    ("scikit-learn==1.5.2", "numpy==2.0.2", "scipy==1.14.1"),
    ("scikit-learn==1.6.1",),
    ("scikit-learn==1.7.2",),
    ("scikit-learn==1.8.0",),
    ("scikit-learn==1.9.1", "pandas==2.3.3", "cloudpickle==3.1.1", "skops==0.14.0"),
)
EXCLUDED = (
    "sklearn.externals", "sklearn.datasets", "sklearn.conftest", "sklearn.experimental", "sklearn.callback",
    "sklearn.utils._testing", "sklearn.utils.estimator_checks", "sklearn.utils._mocking", "sklearn.utils.parallel",
    "sklearn.utils.deprecation", "sklearn.utils._pprint", "sklearn.utils._plotting", "sklearn.utils._joblib",
    "sklearn.utils._estimator_html_repr", "sklearn.utils._repr_html", "sklearn.utils._test_common",
    "sklearn._build_utils", "sklearn._config", "sklearn.inspection", "sklearn.exceptions",
    "sklearn.utils._user_interface", "sklearn.utils._array_api", "sklearn.utils._available_if",
    "sklearn.utils._param_validation",
    "sklearn.utils._set_output", "sklearn.metrics._pairwise_distances_reduction", "sklearn.utils._vector_sentinel",
)  # fmt: skip
FUNCTION_MODULES = (
    "sklearn.feature_selection._univariate_selection", "sklearn.feature_selection._mutual_info",
    "sklearn.metrics.pairwise", "sklearn.metrics._classification", "sklearn.metrics._regression",
    "sklearn.metrics._ranking", "sklearn.metrics.cluster._supervised", "sklearn.metrics.cluster._unsupervised",
    "sklearn.cluster._kmeans", "sklearn.utils._indexing", "sklearn.utils.extmath",
)  # fmt: skip
REBUILDER_MODULES = (
    "sklearn._loss._loss", "sklearn.metrics._dist_metrics", "sklearn.neighbors._kd_tree",
    "sklearn.neighbors._ball_tree", "sklearn.linear_model._sgd_fast",
)  # fmt: skip
REBUILDERS = ("newObj", "__pyx_unpickle_")
NOT_REBUILDERS = ("__pyx_unpickle_Enum", "__pyx_unpickle___Pyx_EnumMeta")
NUMPY_TYPES = (
    "bool_", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
    "float64", "complex64", "complex128", "intc", "uintc", "longlong", "ulonglong", "intp", "uintp", "str_", "bytes_",
    "object_", "datetime64", "timedelta64", "void", "long", "ulong",
)  # fmt: skip


def _modules() -> list[str]:
    import sklearn

    names = ["sklearn"]
    for found in pkgutil.walk_packages(sklearn.__path__, "sklearn.", onerror=lambda _: None):
        if ".tests" not in found.name and not found.name.startswith(EXCLUDED):
            names.append(found.name)
    return names


def _kind_of(value: object, module: str, name: str) -> str:
    if inspect.isclass(value):
        unwanted = issubclass(value, BaseException) or name.endswith("Display") or module == "sklearn.utils"
        if unwanted or value.__module__ != module:
            return ""
        return "class" if value.__reduce__ is object.__reduce__ else "call"
    if module in REBUILDER_MODULES and name.startswith(REBUILDERS) and name not in NOT_REBUILDERS:
        return "call"
    if module in FUNCTION_MODULES and callable(value) and getattr(value, "__module__", "") == module:
        return "value"
    return ""


def collect() -> list[str]:
    """`kind module name` of everything this interpreter's packages offer."""
    warnings.simplefilter("ignore")
    lines = set()
    for module in _modules():
        try:
            loaded = importlib.import_module(module)
        except Exception as error:
            print(f"left out {module}: {error}", file=sys.stderr)
            continue
        for name, value in vars(loaded).items():
            kind = _kind_of(value, module, name)
            if kind:
                lines.add(f"{kind} {module} {name}")
    return sorted(lines | _numpy_lines())


def _numpy_lines() -> set[str]:
    import numpy as np
    import scipy.special

    lines = set()
    for name in NUMPY_TYPES:
        if isinstance(getattr(np, name, None), type):
            lines.add(f"value numpy {name}")
    for name, value in vars(np).items():
        if isinstance(value, np.ufunc):
            for module in ("numpy", "numpy.core._multiarray_umath", "numpy._core._multiarray_umath", "numpy.core.umath",
                           "numpy._core.umath"):  # fmt: skip
                lines.add(f"value {module} {name}")
    for name, value in vars(scipy.special).items():
        if isinstance(value, np.ufunc):
            lines.update(f"value {module} {name}" for module in ("scipy.special", "scipy.special._ufuncs"))
    return lines


def regenerate() -> None:
    """Rewrite the generated part of the list from every environment."""
    sys.path.insert(0, str(CHECKOUT / "tests"))
    from support.envs import training_python

    table: dict[tuple[str, str], set[str]] = {}
    for requirements in ENVIRONMENTS:
        python = training_python(*requirements)
        out = subprocess.run([python, __file__, "--collect"], check=True, capture_output=True, text=True)
        print(requirements[0], len(out.stdout.splitlines()), out.stderr.strip(), file=sys.stderr)
        for line in out.stdout.splitlines():
            kind, module, name = line.split()
            table.setdefault((kind, module), set()).add(name)
    head = TARGET.read_text(encoding="ascii").split(MARKER)[0]
    lines = [f"{kind} {module} {' '.join(sorted(names))}" for (kind, module), names in sorted(table.items())]
    TARGET.write_text(head + MARKER + "\n" + "\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    if "--collect" in sys.argv:
        print("\n".join(collect()))
    else:
        regenerate()
