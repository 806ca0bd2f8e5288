"""Build the frozen project here and compare its digest with the recorded one; 1 when they differ.

python -m tests.golden_digest                what has changed, by layer, entry and field
python -m tests.golden_digest --regenerate   record the digest of now
python -m tests.golden_digest --freeze       make the frozen packages and lock anew, too (rarely wanted)
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from .project import listing
from .recorded import RECORD, explain, parse, text


def main() -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden_digest", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--regenerate", action="store_true")
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--shuffle", type=int, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.runs:
        return _many(wanted.runs)
    if wanted.shuffle is not None:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from support.as_if import shuffle_listings

        shuffle_listings(wanted.shuffle)
    if wanted.freeze:
        from .freeze import freeze

        freeze()
    with tempfile.TemporaryDirectory(prefix="im-golden-") as folder:
        now = listing(Path(folder), cores=wanted.cores)
    told = explain(parse(RECORD.read_text(encoding="utf-8")), now) if RECORD.exists() else "nothing was recorded"
    if wanted.regenerate or wanted.freeze:
        RECORD.write_text(text(now), encoding="utf-8")
        print(told or f"{now.digest}, as recorded before")
        return 0
    print(told or f"{now.digest} as recorded, on Python {platform.python_version()}, {platform.machine()}")
    return 1 if told else 0


def _many(runs: int) -> int:
    from .campaign import campaign

    failures = list(campaign(runs))
    print("\n".join([*failures, f"{runs} runs, {runs - len(failures)} gave the recorded digest"]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
