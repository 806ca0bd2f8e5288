"""How copies, labels and drift are shown: as documents and as rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intermodal.rooms.watch.copies import Compared
    from intermodal.rooms.watch.drift import Drift


def copies_document(found: Compared) -> dict[str, object]:
    """The comparison of copies as `--json` shows it."""
    return {
        "pairs": found.pairs,
        "disagreed": found.disagreed,
        "not_comparable": found.not_comparable,
        "ids_seen_twice": found.twice,
        "without_other_half": found.alone,
        "worst": [
            {
                "request_id": one.request_id,
                "output": one.output,
                "place": list(one.place),
                "stable": one.stable,
                "canary": one.canary,
                "distance": one.distance if one.distance < 1e308 else None,
                "inputs": one.inputs or None,
            }
            for one in found.worst
        ],
    }


def copies_rows(found: Compared) -> list[tuple[str, str]]:
    """The comparison of copies as a person reads it."""
    share = f" ({100 * found.disagreed / found.pairs:.3g} %)" if found.pairs else ""
    rows = [("copies", f"{found.disagreed} of {found.pairs} answered otherwise{share}")]
    return rows + [("", one.sentence()) for one in found.worst]


def drift_document(found: Drift) -> dict[str, object]:
    """Drift as `--json` shows it."""
    return {
        "warns": found.warns,
        "compared_outputs": [one.choice.output for one in found.outputs],
        "predictions_since": found.waiting,
        "shifts": [
            {
                "output": one.output,
                "warns": one.warns,
                "stability_index": round(one.index, 6),
                "chance": round(one.chance, 6),
                "predictions": one.predictions,
                "class": one.class_name,
                "share_then": round(one.share_then, 6),
                "share_now": round(one.share_now, 6),
            }
            for one in found.shifts
        ],
    }


def drift_rows(found: Drift) -> list[tuple[str, str]]:
    """Drift as a person reads it."""
    if not found.outputs:
        return [("drift", "too few predictions yet to compare with")]
    if not found.shifts:
        return [("drift", f"{found.waiting} predictions since promotion; compared from 500 on")]
    lines = [("" if one.warns else "none: ") + one.sentence() for one in found.shifts]
    return [("" if index else "drift", line) for index, line in enumerate(lines)]
