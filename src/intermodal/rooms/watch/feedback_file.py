"""Labels in a file: JSON lines, or CSV where the name ends in `.csv`.

Takes a path, hands on `(request id, label)` in order. All wrong lines are told at once, the first few by number.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from intermodal.errors import InputError
from intermodal.rooms.watch.labels import Label

Labelled = tuple[str, Label | list[Label]]
_SHOWN = 5
MAX_BYTES = 256 << 20


def read_labels(path: Path) -> list[Labelled]:
    """The labels of a file.

    Raises:
        InputError: it cannot be read, or lines of it have not the form.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is too large", found=f"more than {MAX_BYTES >> 20} MiB", next="split it")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}", found=str(error)) from error
    found, wrong = _from_csv(text) if path.suffix.lower() == ".csv" else _from_lines(text)
    if wrong:
        more = [f"… and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise InputError(
            f"{path} has lines that are no labels",
            found=[*wrong[:_SHOWN], *more],
            next='a line is {"request_id": "…", "label": "cat"}; a .csv has the columns request_id and label',
        )
    return found


def _from_lines(text: str) -> tuple[list[Labelled], list[str]]:
    found: list[Labelled] = []
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            request_id, label = document["request_id"], document["label"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            wrong.append(f"line {number}: {type(error).__name__}: {error}")
            continue
        if not isinstance(request_id, str) or not _is_label(label):
            wrong.append(f"line {number}: request_id is a string; label a string, number, boolean, or a list of these")
            continue
        found.append((request_id, label))
    return found, wrong


def _is_label(label: object) -> bool:
    values = label if isinstance(label, list) else [label]
    return bool(values) and all(isinstance(one, str | int | float | bool) for one in values)


def _from_csv(text: str) -> tuple[list[Labelled], list[str]]:
    rows = csv.DictReader(text.splitlines())
    if not {"request_id", "label"} <= set(rows.fieldnames or ()):
        return [], [f"line 1: the columns are {', '.join(rows.fieldnames or ()) or 'missing'}"]
    found: list[Labelled] = []
    wrong = []
    for number, row in enumerate(rows, 2):
        if row["request_id"] and row["label"] is not None:
            found.append((row["request_id"], row["label"]))
        else:
            wrong.append(f"line {number}: a column is missing")
    return found, wrong
