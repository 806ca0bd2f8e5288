"""Labels: which answers were right, and are the canary's more often wrong than stable's?

Takes kept answers and labels as users give them, hands on right or wrong, and a `Finding` from what was counted.

Rules, in order:
1. A label is compared with one output: the one that is named, else the first of classes (strings, booleans, integers),
   else the first. Rows of probabilities are taken as the place of the largest. Numbers need a tolerance: without one
   nobody can say what is wrong.
2. A request with several rows has a label for each, and is right when all are. It is one draw.
3. Only requests that were divided at random with a known weight are evidence, and copies: there, pairs in which only
   one of the two was wrong (a sign test). All others count for the accuracy that is shown, and for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from intermodal.errors import InputError
from intermodal.rooms.deploy.answers import Tally
from intermodal.rooms.deploy.verdict import Finding
from intermodal.rooms.watch.evidence import WORSE, Count, e_value, highest_rate, highest_ratio
from intermodal.rooms.watch.judge import WRONG, WRONG_SHARE, Rules

_CLASSES = ("BYTES", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
Label = str | int | float | bool


def is_right(outputs: str, label: Label | Sequence[Label], *, output: str = "", within: float | None = None) -> bool:
    """Whether an answer is what the label says.

    Args:
        outputs: V2 outputs as JSON.
        label: one for each row, or one for all of a request with one row.
        output: name of the output; "" takes the first of classes, else the first.
        within: how far a number may be off.

    Raises:
        InputError: there is no such output, another number of rows, or numbers without a tolerance.

    Example:
        >>> is_right('[{"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}]', "3")
        True
    """
    chosen = _chosen(json.loads(outputs), output)
    labels: list[Any] = list(label) if isinstance(label, list | tuple) else [label]
    predicted = _rows(chosen)
    if len(predicted) != len(labels):
        raise InputError(
            "a label for each row is needed", found=f"{len(labels)} labels, {len(predicted)} rows in {chosen['name']!r}"
        )
    if all(isinstance(one, float) for one in predicted) and within is None:
        raise InputError(
            f"output {chosen['name']!r} has numbers: a label alone cannot say what is wrong",
            next="say how far they may be off: --within 0.5",
        )
    return all(_same(one, other, within) for one, other in zip(predicted, labels, strict=True))


def _chosen(outputs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    if name:
        for one in outputs:
            if one.get("name") == name:
                return one
        known = ", ".join(str(one.get("name")) for one in outputs)
        raise InputError(f"the model has no output {name!r}", found=f"outputs: {known}")
    return next((one for one in outputs if one.get("datatype") in _CLASSES), outputs[0])


def _rows(output: dict[str, Any]) -> list[Any]:
    """One value for each row; of rows of numbers the place of the largest."""
    data, shape = output.get("data", [output.get("base64")]), list(output.get("shape", ()))
    width = shape[-1] if len(shape) == 2 else 1
    if width > 1 and output.get("datatype") not in _CLASSES:
        rows = [data[index : index + width] for index in range(0, len(data), width)]
        return [max(range(width), key=row.__getitem__) for row in rows]
    return list(data)


def _same(predicted: Any, label: Label, within: float | None) -> bool:
    if isinstance(predicted, bool):
        return str(predicted).lower() == str(label).strip().lower()
    if isinstance(predicted, int | float):
        try:
            return abs(predicted - float(label)) <= (within or 0.0)
        except ValueError:
            return False
    return str(predicted) == str(label)


def wrong_answers(tallies: Sequence[Tally], *, stable: int, canary: int, rules: Rules) -> Finding | None:
    """The evidence that the canary's odds of a wrong answer lie beyond the margin; None without labels of it.

    Args:
        tallies: of one rollout.
        stable: its stable revision.
        canary: its candidate.
        rules: of the rollout.
    """
    counted = [one for one in tallies if one.copied or (one.weight_percent and 0 < one.weight_percent < 100)]
    mine, theirs = ([one for one in counted if one.revision == which] for which in (canary, stable))
    if not mine:
        return None
    wrong: dict[float, list[int]] = {}
    for side, found in ((0, mine), (1, theirs)):
        for one in found:
            weight = 0.5 if one.copied else (one.weight_percent or 0.0) / 100
            wrong.setdefault(weight, [0, 0])[side] += one.wrong_alone if one.copied else one.wrong
    counts = [Count(weight, both[0], sum(both)) for weight, both in sorted(wrong.items())]
    return Finding(
        signal=WRONG,
        stable_events=sum(one.wrong for one in theirs),
        stable_requests=sum(one.labelled for one in theirs),
        canary_events=sum(one.wrong for one in mine),
        canary_requests=sum(one.labelled for one in mine),
        evidence=e_value(counts, rules.wrong_ratio, WORSE),
        needed=1 / (rules.alpha * WRONG_SHARE),
        margin=rules.wrong_ratio,
        missed_ratio=highest_ratio(counts),
        missed_rate=highest_rate(sum(one.wrong for one in mine), sum(one.labelled for one in mine)),
    )
