"""`./dev test`: see what this machine can do, run every test it can, and list what was left out.

In CI (`CI=true`) nothing may be left out: a missing ability is a failure there.

Rules, in order: tests run beside each other; a few that fail are run once more, alone and one after the other, because
real engines, gateways and clocks share two crowded cores here; what fails then has failed, and what passes only then
is named at the end. More than `MOST_AGAIN` failures are no accident and are not run again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MOST_AGAIN = 8
FAILED = 1  # pytest's exit status for failed tests; the others mean that it could not run them
ROOT = Path(__file__).parent.parent
LAST_FAILED = ROOT / ".pytest_cache/v/cache/lastfailed"


def main(arguments: list[str]) -> int:
    """Run pytest on two processes; extra arguments go to pytest and replace the default choice of tests."""
    beside = ["--cache-clear", "--dist", "loadgroup", "-n", str(min(4, os.cpu_count() or 1))]
    status = _pytest([*beside, *arguments])
    failed = sorted(json.loads(LAST_FAILED.read_bytes())) if status == FAILED and LAST_FAILED.exists() else []
    if not 0 < len(failed) <= MOST_AGAIN:
        return status
    print(f"\ntest: {len(failed)} failed; once more, alone", flush=True)
    status = _pytest(["--last-failed", "--last-failed-no-failures", "none", *arguments])
    if status == 0:
        print("test: passed only when run alone:", *failed, sep="\n  ")
    return status


def _pytest(arguments: list[str]) -> int:
    with subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT) as running:
        signal.signal(signal.SIGTERM, lambda *_: running.terminate())
        while True:
            try:
                return running.wait()
            except KeyboardInterrupt:
                continue  # pytest got it as well, and takes down what its tests have started


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
