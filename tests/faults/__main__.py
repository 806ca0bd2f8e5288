"""The command: so many runs of the command line under faults, each followed by the proof that nothing was lost.

    python -m tests.faults --runs 300 --seed 1 --jobs 2
    python -m tests.faults --seed 1 --only 17,203        # repeat runs

Exit status 1 when a run found something; what it was, and the command that repeats it, is printed at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from .campaign import STATES, Campaign  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    """The exit status of `python -m tests.faults ARGUMENTS`."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--first", type=int, default=1, help="number of the first run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="numbers of runs to repeat, with commas between")
    parser.add_argument("--states", default=",".join(STATES), help="where runs start; another list is another campaign")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    numbers = [int(number) for number in options.only.split(",") if number]
    numbers = numbers or list(range(options.first, options.first + options.runs))
    clock = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        campaign = Campaign(Path(name), tuple(options.states.split(",")))
        failed, met, kinds = [], 0, Counter[str]()

        def one(number: int) -> tuple[int, str, list[str], bool]:
            case = campaign.case(options.seed, number)
            try:
                return number, str(case), *campaign.faults(case, f"run-{number}")
            except (TimeoutError, RuntimeError, OSError) as error:
                return number, str(case), [repr(error)], False

        pool = ThreadPoolExecutor(options.jobs)
        try:
            for number, words, found, struck in pool.map(one, numbers):
                kinds[words.partition(",")[0]] += 1
                met += struck
                if found:
                    failed.append(number)
                print(f"run {number}: {'FAILED' if found else 'ok' if struck else 'ok, not met'}: {words}", flush=True)
                for line in found:
                    print(f"    {line}", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    used = os.times()
    cpu = used.user + used.system + used.children_user + used.children_system
    print(
        f"{len(numbers)} runs (seed {options.seed}: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}), "
        f"{met} met their trouble, {len(failed)} failed; {time.monotonic() - clock:.0f} s, {cpu:.0f} s CPU"
    )
    if failed:
        print(
            f"repeat: python -m tests.faults --seed {options.seed} --states {options.states} "
            f"--only {','.join(map(str, failed))}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
