"""How many threads numeric libraries may use, said before anything can import them."""

from __future__ import annotations

import os

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def set_threads(threads: int) -> None:
    """Give numeric libraries their share of the cores, unless the user has decided already."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))
