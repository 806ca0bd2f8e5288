"""Asked to end (`timeout`, a CI that cancels), tests take down what they started: daemons, containers, networks."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM do what Ctrl-C does; processes that a test forks end by it as ever."""
    del config
    own = os.getpid()

    def ended(number: int, frame: object) -> None:
        del frame
        if os.getpid() == own:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, ended)
