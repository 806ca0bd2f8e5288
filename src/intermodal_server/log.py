"""Log lines of every part of the server: one JSON object a line on standard error.

Takes a level, a message and fields; JSON escapes CR and LF, so nothing a client sends can forge a line. A line is one
`write`, so lines of several processes do not mix. Clients never see any of it.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any


class Log:
    """Writes the lines of one part ("supervisor", "front", "worker-1")."""

    def __init__(self, part: str, fd: int = 2) -> None:
        self.part = part
        self._fd = fd

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        now_s = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03d}Z"
        record = {"time": stamp, "level": level, "part": self.part, "message": message}
        record.update(fields)
        line = json.dumps(record, default=str).encode("ascii", "backslashreplace") + b"\n"
        try:
            os.write(self._fd, line)
        except OSError:  # nobody reads the log any more; serving matters more
            return

    def info(self, message: str, **fields: Any) -> None:
        """Tell what happened as intended."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Tell what somebody may want to act on."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Tell what went wrong."""
        self._write("error", message, fields)
