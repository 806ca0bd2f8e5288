"""`python -m intermodal` and the `intermodal` script."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line and exit with its status."""
    from intermodal.cli.app import main as run

    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader may have gone
            stream.flush()
    # everything was closed where it was opened; taking the interpreter apart would cost a tenth of a short command
    os._exit(status)


if __name__ == "__main__":
    main()
