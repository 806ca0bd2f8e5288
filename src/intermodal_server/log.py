"""Log lines of every part of the server: one JSON object a line on standard error.

Takes a level, a message and fields; JSON escapes CR and LF, so nothing a client sends can forge a line. A line is one
`write` (up to what a pipe takes at once), so lines of several processes do not mix. Clients never see any of it.

A log that nobody reads must not stop the server: a full pipe is waited for once, `PATIENCE_MS`; after that lines are
dropped until it takes some again, and the next line says how many in `lost_lines`.
"""

from __future__ import annotations

import json
import os
import select
import stat
import time
from typing import Any

PATIENCE_MS = 50
AT_ONCE_BYTES = 4096  # a pipe that can be written to has room for so many


def in_words(error: BaseException) -> str:
    """Kind and text of an exception, also of one that cannot say what it is."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except BaseException:
        return f"{kind}, whose text cannot be had"


class Log:
    """Writes the lines of one part ("supervisor", "front", "worker-1")."""

    def __init__(self, part: str, fd: int = 2) -> None:
        self.part = part
        self._fd = fd
        self._lost = 0
        self._torn = False  # the last line that went out lacks its end
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        try:
            self._pipe = not stat.S_ISREG(os.fstat(fd).st_mode)
        except OSError:
            self._pipe = False

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        now_s = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03d}Z"
        record: dict[str, Any] = {"time": stamp, "level": level, "part": self.part, "message": message}
        record.update(fields)
        if self._lost:
            record["lost_lines"] = self._lost
        line = json.dumps(record, default=str).encode("ascii", "backslashreplace") + b"\n"
        try:
            if not self._pipe:
                os.write(self._fd, line)
            elif self._write_to_pipe(memoryview(b"\n" + line if self._torn else line)):
                self._lost = 0
            else:
                self._lost += 1
        except OSError:  # nobody reads the log any more; serving matters more
            return

    def _write_to_pipe(self, line: memoryview) -> bool:
        """Write as long as that does not block; False when the line has not gone out whole."""
        while line:
            if not self._poll.poll(0 if self._lost else PATIENCE_MS):
                return False
            line = line[os.write(self._fd, line[:AT_ONCE_BYTES]) :]
            self._torn = len(line) > 0
        return True

    def info(self, message: str, **fields: Any) -> None:
        """Tell what happened as intended."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Tell what somebody may want to act on."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Tell what went wrong."""
        self._write("error", message, fields)
