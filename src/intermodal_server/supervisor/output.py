"""What a model prints, as bounded lines of the log: a model that prints gigabytes neither fills the log nor is held up.

Takes the reading end of a pipe that is a child's standard output and error, hands on log lines.

Rules, in order:
1. The pipe is always read on, so that printing never blocks the model.
2. `BURST_BYTES`, then `BYTES_PER_S`, reach the log; what is beyond is counted and dropped by whole lines, and the log
   says how much, at most every `REPORT_S` seconds and when the child ends.
3. A line longer than `LINE_BYTES` is cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from intermodal_server.log import Log

READ_BYTES = 1 << 20
BURST_BYTES = 128 << 10
BYTES_PER_S = 4 << 10
LINE_BYTES = 4 << 10
REPORT_S = 10.0
F_SETPIPE_SZ = 1031


def pipe() -> tuple[int, int]:
    """Reading end (not blocking) and writing end, with as much room as the kernel gives."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with contextlib.suppress(OSError):  # the user's share of pipe memory is used up; the usual 64 KiB will do
        fcntl.fcntl(writing, F_SETPIPE_SZ, READ_BYTES)
    return reading, writing


class Output:
    """The output of one child."""

    def __init__(self, descriptor: int, log: Log, now_s: float) -> None:
        self.descriptor = descriptor
        self._log = log
        self._allowed = float(BURST_BYTES)
        self._last_s = now_s
        self._rest = b""  # of a line whose end has not come yet
        self._inside_dropped = False
        self._dropped_bytes = 0
        self._dropped_lines = 0
        self._reported_s = now_s - REPORT_S

    def read(self, now_s: float) -> bool:
        """Take what is there, once; False when the child has closed it."""
        try:
            data = os.read(self.descriptor, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        self._allowed = min(BURST_BYTES, self._allowed + (now_s - self._last_s) * BYTES_PER_S)
        self._last_s = now_s
        if data:
            self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        if self._inside_dropped:
            cut = data.find(b"\n") + 1
            self._drop(data[: cut or len(data)])
            if not cut:
                return
            data, self._inside_dropped = data[cut:], False
        while data and self._allowed > 0:
            line, end, data = data.partition(b"\n")
            self._rest += line
            if end or len(self._rest) > LINE_BYTES:
                self._say()
                self._inside_dropped = not end
                if not end:
                    return
        if data:
            self._drop(self._rest + data)
            self._rest, self._inside_dropped = b"", not data.endswith(b"\n")

    def _say(self) -> None:
        line, self._rest = self._rest, b""
        self._allowed -= len(line) + 1
        text = line[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
        if text:
            self._log.info("printed", text=text)
        self._dropped_bytes += max(0, len(line) - LINE_BYTES)

    def _drop(self, data: bytes) -> None:
        self._dropped_bytes += len(data)
        self._dropped_lines += data.count(b"\n")

    def report(self, now_s: float, *, last: bool = False) -> None:
        """Say what was dropped, if anything, unless that was said a moment ago."""
        if last and self._rest:
            self._say()
        if self._dropped_bytes and (last or now_s - self._reported_s >= REPORT_S):
            self._log.warning(
                "it prints too much; the rest was dropped",
                dropped_bytes=self._dropped_bytes,
                dropped_lines=self._dropped_lines,
            )
            self._dropped_bytes = self._dropped_lines = 0
            self._reported_s = now_s

    def finish(self, now_s: float) -> None:
        """Take the last of it and close; what its children still print meets a closed pipe."""
        for _ in range(64):
            if not self.read(now_s):
                break
        self.report(now_s, last=True)
        os.close(self.descriptor)
