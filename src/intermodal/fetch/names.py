"""Names of distributions, in the one form that indexes and locks use."""

from __future__ import annotations

import re


def normalise(name: str) -> str:
    """The PEP 503 form of a distribution name.

    >>> normalise("Scikit_Learn")
    'scikit-learn'
    """
    return re.sub(r"[-_.]+", "-", name).lower()
