"""What a start measured of a model; travels from a worker to the front as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional


@dataclass(frozen=True)
class Measured:
    """Times in seconds; 0 stands for not measured.

    `same`: rows together gave what they give alone, in any order. `problem` says why something is not known or not so.
    """

    load_s: float = 0.0
    predict_1_s: float = 0.0  # p95 over rows
    typical_1_s: float = 0.0  # median over rows
    predict_n_s: float = 0.0
    n: int = 0
    same: bool = False
    golden: bool = False  # the rows came from golden cases
    releases_gil: Optional[bool] = None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """For a control message."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Any) -> Optional[Measured]:
        """What `as_json` wrote; None for anything else, which is as good as not measured."""
        if not isinstance(document, Mapping):
            return None
        try:
            return cls(**document)
        except TypeError:
            return None
