"""How copies, labels and drift are shown: as documents and as rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intermodal.rooms.watch.copies import Compared


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
