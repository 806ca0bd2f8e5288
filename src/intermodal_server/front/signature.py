"""Compare a request's inputs with the model's signature, before any of it reaches a worker.

Takes tensors and `ModelSettings`, hands on the tensors in the signature's order.

Rules, in order: every input is there and no other; its datatype is that of the signature unless that was assumed;
its shape fits, where -1 fits any length; array and column models get at least one row, columns equally many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from intermodal_server.contract import ModelSettings, TensorSpec
from intermodal_server.front.limits import Refusal
from intermodal_server.tensors import Tensor


def _fits(tensor: Tensor, spec: TensorSpec) -> bool:
    return len(tensor.shape) == len(spec.shape) and all(
        wanted in (-1, length) for wanted, length in zip(spec.shape, tensor.shape)
    )


def _check(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype and not spec.assumed:
        raise Refusal(400, f"input {spec.name!r} is {tensor.datatype}, the model takes {spec.datatype}")
    if spec.shape and not _fits(tensor, spec):
        raise Refusal(400, f"input {spec.name!r} has shape {list(tensor.shape)}, the model takes {list(spec.shape)}")


def match(tensors: Sequence[Tensor], settings: ModelSettings) -> list[Tensor]:
    """`tensors` in the order of the signature.

    Raises:
        Refusal: 400, with what the model takes instead.
    """
    specs = settings.signature.inputs
    if not specs:
        return list(tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    for spec in specs:
        if spec.name not in by_name:
            raise Refusal(400, f"input {spec.name!r} is missing")
    known = {spec.name for spec in specs}
    for tensor in tensors:
        if tensor.name not in known:
            raise Refusal(400, f"the model has no input {tensor.name[:64]!r}")
    chosen = [by_name[spec.name] for spec in specs]
    for tensor, spec in zip(chosen, specs):
        _check(tensor, spec)
    if settings.call in ("array", "columns"):
        rows = {tensor.shape[0] if tensor.shape else 0 for tensor in chosen}
        if 0 in rows:
            raise Refusal(400, "the request holds no rows")
        if len(rows) > 1:
            raise Refusal(400, "the inputs have different numbers of rows")
    return chosen


def matcher(settings: ModelSettings) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """`match` for one model; quick where it takes one input of which only the number of rows is open."""
    specs = settings.signature.inputs
    if len(specs) != 1 or specs[0].assumed or specs[0].shape[:1] != (-1,) or -1 in specs[0].shape[1:]:
        return lambda tensors: match(tensors, settings)
    name, datatype, row = specs[0].name, specs[0].datatype, specs[0].shape[1:]

    def quick(tensors: Sequence[Tensor]) -> list[Tensor]:
        if len(tensors) == 1:
            given, kind, shape, _ = tensors[0]
            if kind == datatype and given == name and shape[1:] == row and shape and shape[0]:
                return list(tensors)
        return match(tensors, settings)  # says what is wrong, if anything is

    return quick
