"""`./dev test`: see what this machine can do, run every test it can, and list what was left out.

In CI (`CI=true`) nothing may be left out: a missing ability is a failure there.
"""

from __future__ import annotations

import os
import subprocess
import sys


def main(arguments: list[str]) -> int:
    """Run pytest on two processes; extra arguments go to pytest and replace the default choice of tests."""
    command = [sys.executable, "-m", "pytest", "--dist", "loadgroup", "-n", str(min(4, os.cpu_count() or 1))]
    return subprocess.run([*command, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
