"""What a server that ended said last, in few words: its own errors where it wrote any, else its last lines."""

from __future__ import annotations

import json
from collections.abc import Sequence

_LINES = 3
_LONGEST = 300


def reason_in(lines: Sequence[str]) -> str:
    """The reason in the end of a log.

    Args:
        lines: of the log, the last ones; JSON as our server writes it, or anything.
    """
    reason, plain = "", []
    for line in lines:
        try:
            record = json.loads(line)
            level, message = record["level"], str(record["message"])
        except (ValueError, TypeError, KeyError, RecursionError):
            plain.append(line.strip())
            continue
        if level == "error":
            reason = str(record.get("reason") or message)
        elif message == "the model printed":
            plain.append(str(record.get("text", "")).strip())
    return (reason or "; ".join(plain[-_LINES:]))[:_LONGEST]
