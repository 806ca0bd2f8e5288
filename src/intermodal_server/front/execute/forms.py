"""What answers of this model look like beyond their values: names, datatypes, lengths after the first axis.

Takes golden responses, or the signature where there are none; says of a batch's outputs whether they look like that.
One request can make a model answer a whole batch in another form (texts for numbers, two columns for one): who asked
alone may get that, neighbours must not.

Rules, in order: an output that golden responses know must have one of their datatypes and, unless they differ in that,
their lengths; one that they lack is strange, unless a golden request chose among the outputs; without golden responses
the signature's outputs count, -1 for any length; without those as well everything fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Optional

from intermodal_server.contract import Signature
from intermodal_server.tensors import Tensor

Lengths = Optional[tuple[int, ...]]  # beyond the first axis, -1 for any; None for anything at all


class Forms:
    """The forms that are known; none at first, and then everything fits."""

    def __init__(
        self, known: Mapping[str, tuple[frozenset[str], Lengths]] = MappingProxyType({}), *, all_known: bool = True
    ) -> None:
        self._known = dict(known)
        self._all_known = all_known
        self._fitting: set[tuple[Any, ...]] = set()

    @classmethod
    def of(cls, cases: Sequence[Mapping[str, Any]], signature: Signature) -> Forms:
        """The forms that golden cases or, without any, a signature tell of."""
        known: dict[str, tuple[frozenset[str], Lengths]] = {}
        chosen = False
        for case in cases:
            chosen = chosen or "outputs" in case["request"]
            for output in case["response"].get("outputs", ()):
                name, datatypes = output["name"], frozenset((output["datatype"],))
                lengths: Lengths = tuple(output["shape"][1:])
                if name in known:
                    datatypes |= known[name][0]
                    lengths = lengths if lengths == known[name][1] else None
                known[name] = datatypes, lengths
        if known:
            return cls(known, all_known=not chosen)
        return cls({spec.name: (frozenset((spec.datatype,)), spec.shape[1:]) for spec in signature.outputs})

    def fit(self, outputs: Sequence[Tensor]) -> bool:
        """Whether outputs look like those that are known."""
        if not self._known:
            return True
        form = tuple([(output.name, output.datatype, output.shape[1:]) for output in outputs])
        if form in self._fitting:
            return True
        names = {output.name for output in outputs}
        if not names >= self._known.keys() or (self._all_known and names != self._known.keys()):
            return False
        if not all(self._fits(output) for output in outputs if output.name in self._known):
            return False
        if len(self._fitting) < 64:
            self._fitting.add(form)
        return True

    def _fits(self, output: Tensor) -> bool:
        datatypes, lengths = self._known[output.name]
        if output.datatype not in datatypes:
            return False
        if lengths is None:
            return True
        here = output.shape[1:]
        return len(here) == len(lengths) and all(known in (-1, length) for known, length in zip(lengths, here))
