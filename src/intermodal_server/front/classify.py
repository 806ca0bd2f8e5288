"""The highest values of an output as text, for clients that ask for classes instead of numbers.

Takes an output and how many classes, hands on a BYTES tensor of `value:index`, highest first.

Rules, in order: each index along the first axis is an example of its own when there are more axes; the rest of its axes
count through as one; equal values keep their order, NaN comes last; nobody gets more classes than there are. There are
no labels: nothing in a model says in which order an output has them.

Spec: Triton, "Classification Extension".
"""

from __future__ import annotations

import heapq

from intermodal_server.tensors import Tensor, TensorError, decode, elements, encode

LOWEST = float("-inf")


def classes(tensor: Tensor, count: int) -> Tensor:
    """The `count` highest values of each example, with their places.

    Raises:
        TensorError: the output holds no numbers.
    """
    if tensor.datatype in ("BYTES", "BOOL"):
        raise TensorError(f"output {tensor.name!r} is {tensor.datatype}; classification needs numbers")
    values = decode(tensor.data, tensor.datatype, tensor.name)
    batch = tensor.shape[0] if len(tensor.shape) > 1 else 1
    width = elements(tensor.shape[1:]) if len(tensor.shape) > 1 else len(values)
    kept = min(count, width)
    form = "{:f}:{}" if tensor.datatype.startswith("FP") else "{}:{}"
    found: list[str] = []
    for start in range(0, batch * width, width or 1):
        row = values[start : start + width]
        best = heapq.nsmallest(kept, range(width), key=lambda place: _order(row[place]))
        found.extend(form.format(row[place], place) for place in best)
    shape = (batch, kept) if len(tensor.shape) > 1 else (kept,)
    return Tensor(tensor.name, "BYTES", shape, encode(found, "BYTES", tensor.name))


def _order(value: float) -> float:
    return -LOWEST if value != value else -value
