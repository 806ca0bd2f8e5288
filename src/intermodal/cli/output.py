"""What a command hands back: one document for machines, one text for people, one exit status; and the words for both.

Takes values from `pipeline`, writes standard output. Nothing here decides anything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field


class Output(Struct, frozen=True):
    """The result of a command; `text` has no final newline."""

    document: Mapping[str, object]
    text: str
    exit_code: int = 0
    warnings: Sequence[str] = field(default_factory=tuple)
    told: bool = False  # written already, by a command that then went on


def write(output: Output, *, as_json: bool) -> None:
    """Put the result on standard output: the document with `--json`, else the text."""
    if as_json:
        own = output.document.get("warnings")
        told = [*(own if isinstance(own, list | tuple) else ()), *output.warnings]
        document = {**output.document, "warnings": list(dict.fromkeys(told))}
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    elif output.text:
        sys.stdout.write(output.text + "\n")


def table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), indent: str = "") -> str:
    """Rows as aligned columns, two spaces between them; `right` are the columns of numbers.

    >>> print(table([("a", "1"), ("bcd", "22")], right=[1]))
    a     1
    bcd  22
    """
    rows = [tuple(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    numbers = set(right)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def size(size_bytes: int) -> str:
    """A size for people, in decimal units.

    >>> size(15_237_000)
    '15.2 MB'
    """
    if size_bytes < 1000:
        return f"{size_bytes} B"
    amount = float(size_bytes)
    for unit in ("KB", "MB", "GB"):
        amount /= 1000
        if amount < 999.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1000:.1f} TB"


def seconds(amount_s: float) -> str:
    """A duration for people.

    >>> seconds(0.0312)
    '0.03 s'
    """
    return f"{amount_s:.2f} s" if amount_s < 10 else f"{amount_s:.0f} s"
