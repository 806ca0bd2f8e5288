"""What copies and labels show, and how soon: `python -m tests.simulate_copies --runs 2000`.

Draws pairs of answers and labelled answers, asks the real findings now and then, prints a table of false alarms and of
how many pairs or labels a real difference takes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "src")]

from intermodal.rooms.deploy.answers import Tally  # noqa: E402
from intermodal.rooms.watch.copies import Compared, disagreements  # noqa: E402
from intermodal.rooms.watch.judge import Rules  # noqa: E402
from intermodal.rooms.watch.labels import wrong_answers  # noqa: E402

RULES = Rules()
LOOK, MOST = 50, 5000


def pairs(share: float, rng: Random) -> int | None:
    """How many pairs until disagreement is beyond the margin; None for never."""
    events = 0
    for count in range(LOOK, MOST + 1, LOOK):
        events += sum(rng.random() < share for _ in range(LOOK))
        if disagreements(Compared(pairs=count, disagreed=events), RULES).evidence >= NEEDED_PAIRS:
            return count
    return None


def labels(stable: float, canary: float, rng: Random, *, weight: float = 0.1) -> int | None:
    """How many labels of the canary until its wrong answers are beyond the margin; None for never."""
    wrong = [0, 0]
    for count in range(LOOK, MOST // 2 + 1, LOOK):
        others = round(LOOK * (1 - weight) / weight)
        wrong[0] += sum(rng.random() < stable for _ in range(others))
        wrong[1] += sum(rng.random() < canary for _ in range(LOOK))
        tallies = [
            Tally(1, 1, 100 * weight, False, count * others // LOOK, wrong[0], 0),
            Tally(2, 1, 100 * weight, False, count, wrong[1], 0),
        ]
        finding = wrong_answers(tallies, stable=1, canary=2, rules=RULES)
        if finding is not None and finding.alarmed:
            return count
    return None


NEEDED_PAIRS = disagreements(Compared(), RULES).needed


def told(name: str, found: list[int | None]) -> str:
    """A row of the table."""
    share = 100 * sum(one is not None for one in found) / len(found)
    middle = median(MOST * 2 if one is None else one for one in found)  # never is later than the end
    return f"| {name} | {share:.2f} % | {f'{middle:,.0f}' if middle <= MOST else '–'} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    print("| case | alarm | median pairs or labels of the canary |\n|---|---|---|")
    for share in (0.02, 0.05, 0.07, 0.1, 0.2):
        found = [pairs(share, Random(seed)) for seed in range(runs)]
        print(told(f"{100 * share:g} % of the pairs disagree", found), flush=True)
    for stable, canary in ((0.1, 0.1), (0.1, 0.14), (0.1, 0.2), (0.1, 0.3), (0.02, 0.1)):
        found = [labels(stable, canary, Random(seed)) for seed in range(runs)]
        print(told(f"wrong answers {100 * stable:g} -> {100 * canary:g} %", found), flush=True)


if __name__ == "__main__":
    main()
