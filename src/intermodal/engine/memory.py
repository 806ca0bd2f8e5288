"""How much memory a family of processes holds, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def family(pid: int) -> list[int]:
    """`pid` and all its descendants that live right now."""
    members = [pid]
    for member in members:  # grows while we walk
        with suppress(OSError, ValueError):
            for task in Path(f"/proc/{member}/task").iterdir():
                with suppress(OSError):
                    members += [int(child) for child in (task / "children").read_text().split()]
    return members


def resident_bytes(pid: int) -> int:
    """Resident memory of `pid` and its descendants together; pages that several share count several times."""
    total = 0
    for member in family(pid):
        with suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * _PAGE_BYTES
    return total
