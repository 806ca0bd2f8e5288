"""The frozen project built many times, each time by a process under circumstances that a number decides.

What differs: cores, the processors it may run on, the order in which folders list files, hash seed, time zone,
language, umask, place. With threads that write layers side by side, many runs are the only way to see a race.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia")
LANGUAGES = ("C", "C.UTF-8", "tr_TR.UTF-8", "de_DE.ISO-8859-1")


def circumstance(number: int) -> tuple[list[str], dict[str, str], int, set[int]]:
    """Arguments, environment, umask and processors of run `number`."""
    chance = random.Random(number)
    arguments = ["--cores", str(chance.randint(1, 16)), "--shuffle", str(number)]
    variables = {
        "PYTHONHASHSEED": str(chance.randint(0, 2**32 - 1)),
        "TZ": chance.choice(ZONES),
        "LC_ALL": chance.choice(LANGUAGES),
        "SOURCE_DATE_EPOCH": str(chance.randint(0, 2**31)),
    }
    allowed = sorted(os.sched_getaffinity(0))
    processors = set(chance.sample(allowed, chance.randint(1, len(allowed))))
    return arguments, variables, chance.choice((0o022, 0o002, 0o077)), processors


def campaign(runs: int) -> Iterator[str]:
    """What each run that did not give the recorded digest said."""
    for number in range(runs):
        arguments, variables, umask, processors = circumstance(number)
        with tempfile.TemporaryDirectory(prefix=f"im run {number} ") as folder:
            done = subprocess.run(
                [sys.executable, "-m", "tests.golden_digest", *arguments],
                cwd=CHECKOUT,
                env={**os.environ, **variables, "TMPDIR": folder},
                umask=umask,
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=lambda chosen=processors: os.sched_setaffinity(0, chosen),
            )
        if done.returncode:
            yield f"run {number} ({' '.join(arguments)} {variables} {umask:o}): {done.stdout}{done.stderr}"
